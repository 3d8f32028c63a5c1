package main

import (
	"context"
	"fmt"
	"time"
)

// manyLocks measures servers with many locks in one process, each in front of one slot.
func manyLocks(ctx context.Context, b *bench) ([]*result, error) {
	s, err := newService(answerOnce)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	f := front{service: s.addr(), slots: 1, locks: b.locks}
	servers := b.withBefore(haproxyDefault, haproxyOneThread, bareCaddy, lockLinger0, lockDefault)
	start := &result{
		Name:       "locks-start",
		Title:      fmt.Sprintf("Start with locks: %d", b.locks),
		References: []string{bareCaddy.name},
		Quantities: []quantity{{"ms until it listens", false}, {"MiB", false}},
	}
	var trials []trial
	for _, s := range servers {
		trials = append(trials, trial{start, s.name, func(ctx context.Context, _ time.Duration) ([]float64, error) {
			return b.startTime(ctx, f, s)
		}})
	}
	if err := alternateCold(ctx, trials, b.rounds, b.duration); err != nil {
		return nil, err
	}
	spread, err := b.short(ctx, &result{
		Name:       "locks",
		Title:      fmt.Sprintf("Short connections, %d clients, one slot each, spread over locks: %d", clients, b.locks),
		References: haproxies,
	}, f, servers...)
	return append([]*result{start}, spread...), err
}

func (b *bench) startTime(ctx context.Context, f front, s server) ([]float64, error) {
	t, err := b.start(ctx, f, s)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	kib, err := t.settledRSS(ctx, b.settle)
	return []float64{float64(t.started) / float64(time.Millisecond), kib / 1024}, err
}
