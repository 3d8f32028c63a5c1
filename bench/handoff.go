package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// handOff measures how long the service is left without a connection while clients wait
// for it.
func handOff(ctx context.Context, b *bench) ([]*result, error) {
	busy, err := b.handOff(ctx, "handoff", "Hand-off: the service closes, the service accepts the next", 0)
	if err != nil {
		return nil, err
	}
	// What clients do who come and go is done by the time the service closes.
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
	for _, s := range []server{haproxyDefault, haproxyOneThread, lockLinger0, lockDefault} {
		d, err := b.doorway(ctx, s)
		if err != nil {
			return nil, err
		}
		defer d.stop()
		d.pause = pause
		for i, n := range b.lines {
			if results[i].Missing == "" {
				trials = append(trials, trial{results[i], s.name, func(ctx context.Context, long time.Duration) ([]float64, error) {
					return d.handOffs(ctx, n, long)
				}})
			}
		}
	}
	return results, b.alternate(ctx, trials)
}

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
	}
	if err == nil { // a round may be short, and the machine slow
		err = until(ctx, "there was a hand-off", func() (bool, error) { return l.answered.Load() > 1, nil })
	}
	gaps := d.shut()
	took := time.Since(began)
	if err != nil {
		l.cut()
		return nil, err
	}
	return []float64{quantile(gaps, 0.50), quantile(gaps, 0.99), float64(len(gaps)) / took.Seconds()}, l.clear(ctx)
}

// missingDescriptors tells why there cannot be so many waiters, or is empty. The Go
// runtime has raised this process's limit as far as it may; servers raise theirs.
func missingDescriptors(waiters int) string {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err.Error()
	}
	// tcplock leaves an eighth of them to all else.
	if need := uint64(waiters+200) * 8 / 7; limit.Max < need {
		return fmt.Sprintf("found that a process may have %d descriptors (ulimit -Hn), expected %d for %d waiters", limit.Max, need, waiters)
	}
	return ""
}
