package main

import (
	"context"
	"fmt"
	"time"
)

// clients is how many there are at short connections, at any time.
const clients = 32

// short measures connections that do nothing but ask once, through some slots.
func (b *bench) short(ctx context.Context, slots int) (*result, error) {
	s, err := newService(answerOnce)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	targets := []*target{direct(s.addr())}
	defer func() { stopAll(targets) }()
	add := func(t *target, err error) error {
		if err == nil {
			targets = append(targets, t)
		}
		return err
	}
	if err := add(b.haproxy(ctx, s.addr(), slots)); err != nil {
		return nil, err
	}
	for _, c := range []caddyServer{
		{name: "caddy-l4 without a lock"},
		{name: "tcplock, linger 0", lock: fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots)},
		{name: "tcplock", lock: fmt.Sprintf("tcplock %d", slots)},
		{name: "tcplock, linger 0, logging", lock: fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), logs: true},
		{name: "tcplock, logging", lock: fmt.Sprintf("tcplock %d", slots), logs: true},
	} {
		if err := add(b.caddyL4(ctx, s.addr(), c)); err != nil {
			return nil, err
		}
	}
	r := newResult(fmt.Sprintf("short connections, %d clients, slots: %d", clients, slots), "haproxy",
		quantity{"conn/s", false}, quantity{"proxy's CPU, us/conn", true})
	return r, b.alternate(targets, r, func(t *target, d time.Duration) ([]float64, error) {
		before, err := t.cpu()
		if err != nil {
			return nil, err
		}
		rate, err := shortConnections(ctx, t.addr, clients, d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		after, err := t.cpu()
		if err != nil {
			return nil, err
		}
		return []float64{rate, (after - before).Seconds() * 1e6 / (rate * d.Seconds())}, nil
	})
}

// alternate measures the targets in turn, forwards and backwards, so that what changes on
// the machine meanwhile changes for all. The first round is for warming up.
func (b *bench) alternate(targets []*target, r *result, measure func(*target, time.Duration) ([]float64, error)) error {
	for _, t := range targets {
		r.Targets = append(r.Targets, &series{Target: t.name})
	}
	for round := range b.rounds + 1 {
		d := b.duration
		if round == 0 {
			d /= 2
		}
		for i := range targets {
			t := targets[i]
			if round%2 == 1 {
				t = targets[len(targets)-1-i]
			}
			values, err := measure(t, d)
			if err != nil {
				return err
			}
			if round > 0 {
				r.of(t.name).add(values)
			}
		}
	}
	return nil
}
