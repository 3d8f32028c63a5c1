package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// bench has what all measurements share.
type bench struct {
	settings
	dir     string // for configs and logs, removed at the end
	running []*target
}

// fewRounds is how many rounds there are of what takes long and differs little.
func (b *bench) fewRounds() int { return min(b.rounds, 3) }

// trial is one target of a measurement. The targets are measured in turn.
type trial struct {
	of     *result
	target string
	run    func(ctx context.Context, d time.Duration) ([]float64, error)
}

// alternate runs a round to warm up, and then runs the trials in turn, forwards and backwards. So a
// change in the load of the machine affects all trials.
func (b *bench) alternate(ctx context.Context, trials []trial) error {
	if _, err := runRound(ctx, trials, b.duration/2); err != nil {
		return err
	}
	return alternateCold(ctx, trials, b.rounds, b.duration)
}

// alternateCold is like alternate, without the round to warm up. It is for trials that start a new
// server in each round.
func alternateCold(ctx context.Context, trials []trial, rounds int, d time.Duration) error {
	order := slices.Clone(trials)
	for _, t := range trials { // the tables keep this order
		t.of.Targets = append(t.of.Targets, &series{Target: t.target})
	}
	for range rounds {
		slices.Reverse(order)
		values, err := runRound(ctx, order, d)
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
