package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// work is a real program behind the servers, and real clients of it.
type work struct {
	name, title, unit string

	slots   int
	longer  int    // how many times the usual duration a round takes
	missing string // why it cannot be measured
	start   func(context.Context, *bench) (*job, error)
}

// job is a piece of work with its program running.
type job struct {
	service string // its address
	stop    func()
	// do makes the clients work for the time d. It returns how much they do in a second.
	do func(ctx context.Context, r *result, t *target, d time.Duration) (float64, error)
}

// realWork measures what clients notice of a server in front of a real program.
func realWork(of func() work) func(context.Context, *bench) ([]*result, error) {
	return func(ctx context.Context, b *bench) ([]*result, error) {
		w := of()
		r := &result{
			Name:       "real-" + w.name,
			Title:      fmt.Sprintf("%s, slots: %d", w.title, w.slots),
			References: haproxies,
			Quantities: []quantity{{w.unit, true}},
			Missing:    w.missing,
		}
		if w.missing != "" {
			return []*result{r}, nil
		}
		j, err := w.start(ctx, b)
		if err != nil {
			return nil, err
		}
		defer j.stop()
		targets, err := b.put(ctx, front{service: j.service, slots: w.slots, locks: 1},
			b.withBefore(haproxyDefault, haproxyOneThread, lockLinger0, lockDefault)...)
		if err != nil {
			return nil, err
		}
		var trials []trial
		for _, t := range targets {
			trials = append(trials, trial{r, t.name, func(ctx context.Context, d time.Duration) ([]float64, error) {
				did, err := j.do(ctx, r, t, time.Duration(w.longer)*d)
				return []float64{did}, err
			}})
		}
		return []*result{r}, b.alternate(ctx, trials)
	}
}

// again runs clients at the same time, and each of them again and again until d is over. It returns how
// many were done in a second.
func again(ctx context.Context, r *result, t *target, n int, d time.Duration, client func(context.Context, netip.AddrPort) error) (float64, error) {
	limit := patience
	if t.kind == haproxy {
		limit = forgottenAfter
	}
	var (
		done, forgotten atomic.Int64

		all    sync.WaitGroup
		failed = make(chan error, n)
	)
	began := time.Now()
	for range n {
		all.Go(func() {
			for ctx.Err() == nil && len(failed) == 0 && (time.Since(began) < d) {
				soon, cancel := context.WithTimeout(ctx, limit)
				err := client(soon, t.addr())
				late := soon.Err() != nil
				cancel()
				switch {
				case err == nil:
					done.Add(1)
				case late && t.kind == haproxy && ctx.Err() == nil:
					forgotten.Add(1)
				default:
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	r.remarkForgotten(t, int(forgotten.Load()))
	if len(failed) > 0 {
		return 0, <-failed
	}
	return float64(done.Load()) / took.Seconds(), ctx.Err()
}

// output runs a command and returns what it prints.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), err
}

// missingPrograms tells which program of a Debian package is not there. It returns "" if all are.
func missingPrograms(packages string, programs ...string) string {
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("found no %s, expected it (on Debian: apt-get install %s)", program, packages)
		}
	}
	return ""
}
