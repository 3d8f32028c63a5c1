package main

import (
	"context"
	"fmt"
	"time"
)

// costs counts what a short connection costs a server. Counts differ less from run to run than times.
func costs(ctx context.Context, b *bench) ([]*result, error) {
	var results []*result
	for _, slots := range []int{1, 16} {
		of, err := b.costs(ctx, slots)
		if err != nil {
			return nil, err
		}
		results = append(results, of...)
	}
	return results, nil
}

func (b *bench) costs(ctx context.Context, slots int) ([]*result, error) {
	s, err := newService(answerOnce)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	targets, err := b.put(ctx, front{service: s.addr(), slots: slots, locks: 1},
		b.withBefore(haproxyOneThread, lockLinger0, lockDefault, proxyLinger0)...)
	if err != nil {
		return nil, err
	}
	defer b.stopAll()
	load := fmt.Sprintf("for each short connection, %d clients, slots: %d", clients, slots)
	missing := b.missingStrace(ctx, targets[0])
	calls := &result{
		Name:       fmt.Sprintf("costs-%d", slots),
		Title:      "System calls of the server " + load,
		References: []string{haproxyOneThread.name},
		Quantities: []quantity{{"system calls", false}},
		Missing:    missing,
	}
	inside := &result{
		Name:       fmt.Sprintf("costs-go-%d", slots),
		Title:      "Allocations, bytes allocated and switches to another goroutine in Caddy " + load,
		References: []string{proxyLinger0.name},
		Quantities: []quantity{{"allocations", false}, {"bytes", false}, {"goroutine switches", false}},
	}
	names := callNames{}
	var trials []trial
	for _, t := range targets {
		if missing == "" {
			trials = append(trials, trial{calls, t.name, func(ctx context.Context, _ time.Duration) ([]float64, error) {
				return b.countCalls(ctx, calls, names, t)
			}})
		}
		if t.kind != haproxy {
			trials = append(trials, trial{inside, t.name, func(ctx context.Context, _ time.Duration) ([]float64, error) {
				return b.countInside(ctx, t)
			}})
		}
	}
	for _, t := range targets { // the first connections cost more
		if _, err := b.connect(ctx, t, b.counted); err != nil {
			return nil, err
		}
	}
	err = alternateCold(ctx, trials, b.fewRounds(), 0)
	return []*result{calls, names.result(calls), inside}, err
}

// connect makes n short connections, and returns when the server has done with them.
func (b *bench) connect(ctx context.Context, t *target, n int) (tally, error) {
	found, err := load{clients: clients, time: patience, most: n}.run(ctx, t)
	if err == nil && found.answered+found.forgotten < n {
		err = fmt.Errorf("found %d connections within %s, expected %d", found.answered, patience, n)
	}
	if err != nil {
		return found, err
	}
	return found, t.calm(ctx, b.settle/15)
}
