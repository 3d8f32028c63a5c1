package main

import (
	"context"
	"fmt"
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
// machine meanwhile changes for all. The first round is for warming up.
func (b *bench) alternate(ctx context.Context, trials []trial) error {
	for _, t := range trials { // the tables keep this order
		t.of.Targets = append(t.of.Targets, &series{Target: t.target})
	}
	for round := range b.rounds + 1 {
		d := b.duration
		if round == 0 {
			d /= 2
		}
		for i := range trials {
			t := trials[i]
			if round%2 == 1 {
				t = trials[len(trials)-1-i]
			}
			values, err := t.run(ctx, d)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", t.of.Title, t.target, err)
			}
			if round > 0 {
				t.of.add(t.target, values...)
			}
		}
	}
	return nil
}
