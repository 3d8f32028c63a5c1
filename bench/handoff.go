package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// handOff measures how long the service has no connection while clients wait for it.
func handOff(ctx context.Context, b *bench) ([]*result, error) {
	busy, err := b.handOff(ctx, "handoff", "Hand-off: the service closes, the service accepts the next", 0)
	if err != nil {
		return nil, err
	}
	// With a pause, the work for clients that come and go is done when the service closes.
	calm, err := b.handOff(ctx, "handoff-calm", "Hand-off as above, of a service that takes 1 ms for each connection", time.Millisecond)
	return append(busy, calm...), err
}

func (b *bench) handOff(ctx context.Context, name, title string, pause time.Duration) ([]*result, error) {
	var (
		results []*result
		trials  []trial
	)
	for _, n := range b.lines {
		r := &result{
			Name:       fmt.Sprintf("%s-%d", name, n),
			Title:      fmt.Sprintf("%s, waiters: %d", title, n),
			References: haproxies,
			Quantities: []quantity{{"p50 us", false}, {"p99 us", false}, {"conn/s", true}},
			Missing:    missingDescriptors(n),
		}
		results = append(results, r)
	}
	for _, s := range b.withBefore(haproxyDefault, haproxyOneThread, lockLinger0, lockDefault, proxyLinger0) {
		d, err := b.doorway(ctx, s, b.waiters())
		if err != nil {
			return nil, err
		}
		defer d.stop()
		d.pause = pause
		for i, n := range b.lines {
			if results[i].Missing == "" && (s.kind != withProxy || i == len(b.lines)/2) {
				trials = append(trials, trial{results[i], s.name, func(ctx context.Context, long time.Duration) ([]float64, error) {
					values, err := d.handOffs(ctx, n, long)
					for try := 1; err == errForgotten && s.kind == haproxy && try < 5; try++ {
						results[i].remark(s.name + " sent no client to the service, which was free, and was restarted")
						if err := d.startServer(ctx); err != nil {
							return nil, err
						}
						values, err = d.handOffs(ctx, n, long)
					}
					return values, err
				}})
			}
		}
	}
	return results, b.alternate(ctx, trials)
}

// errForgotten is what happens with HAProxy 2.6 now and then: clients that come just when its only
// client leaves wait until timeout queue.
var errForgotten = errors.New("found no client served in 10s, although the service is free")

func (d *doorway) handOffs(ctx context.Context, n int, long time.Duration) ([]float64, error) {
	l, err := d.line(ctx, n, true)
	if err != nil {
		return nil, err
	}
	d.open()
	began := time.Now()
	select {
	case err = <-l.failed:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(long):
		err = l.goesOn(ctx)
	}
	gaps := d.shut()
	took := time.Since(began)
	if err != nil {
		l.cut()
		return nil, err
	}
	return []float64{quantile(gaps, 0.50), quantile(gaps, 0.99), float64(len(gaps)) / took.Seconds()}, l.clear(ctx)
}

// goesOn waits until one more client is answered, and at least two in all.
func (l *line) goesOn(ctx context.Context) error {
	before := max(1, l.answered.Load())
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := until(soon, "one more is answered", func() (bool, error) { return l.answered.Load() > before, nil })
	if err != nil && ctx.Err() == nil {
		return errForgotten
	}
	return err
}

// missingDescriptors tells why there cannot be so many waiters. It returns "" if there can. The Go
// runtime has raised the limit of this process to the maximum, and the servers raise theirs.
func missingDescriptors(waiters int) string {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err.Error()
	}
	if need := descriptorsFor(waiters); limit.Max < need {
		return fmt.Sprintf("found that a process may have %d descriptors (ulimit -Hn), expected %d for %d waiters", limit.Max, need, waiters)
	}
	return ""
}

// descriptorsFor is how many descriptors a process needs for so many waiters. tcplock reserves an
// eighth of them.
func descriptorsFor(waiters int) uint64 { return uint64(waiters+200) * 8 / 7 }

// allowDescriptors raises the limit of this process and of the servers, if so many waiters need that
// and this process may. If it may not, missingDescriptors says so.
func allowDescriptors(waiters int) {
	var limit syscall.Rlimit
	need := descriptorsFor(waiters)
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Max < need {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: need, Max: need})
	}
}
