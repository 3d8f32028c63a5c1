package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// bench is what all measurements share.
type bench struct {
	settings
	dir     string // for configs and logs, removed in the end
	running []*target
}

// trial is one of the things that are measured in turn.
type trial struct {
	of     *result
	target string
	run    func(ctx context.Context, d time.Duration) ([]float64, error)
}

// alternate runs the trials in turn, forwards and backwards, so that what changes on the
// machine meanwhile changes for all, after a round for warming up.
func (b *bench) alternate(ctx context.Context, trials []trial) error {
	if _, err := runRound(ctx, trials, b.duration/2); err != nil {
		return err
	}
	return b.alternateCold(ctx, trials)
}

// alternateCold is for servers that are started anew in each round.
func (b *bench) alternateCold(ctx context.Context, trials []trial) error {
	order := slices.Clone(trials)
	for _, t := range trials { // the tables keep this order
		t.of.Targets = append(t.of.Targets, &series{Target: t.target})
	}
	for range b.rounds {
		slices.Reverse(order)
		values, err := runRound(ctx, order, b.duration)
		if err != nil {
			return err
		}
		for i, t := range order {
			t.of.add(t.target, values[i]...)
		}
	}
	return nil
}

func runRound(ctx context.Context, trials []trial, d time.Duration) (values [][]float64, err error) {
	for _, t := range trials {
		v, err := t.run(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", t.of.Title, t.target, err)
		}
		values = append(values, v)
	}
	return values, nil
}
