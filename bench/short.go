package main

import (
	"context"
	"fmt"
	"time"
)

// clients is how many clients make short connections at the same time.
const clients = 32

// short measures connections that send one request and get one answer.
func short(slots int) func(context.Context, *bench) ([]*result, error) {
	return func(ctx context.Context, b *bench) ([]*result, error) {
		return b.short(ctx, &result{
			Name:       fmt.Sprintf("short-%d", slots),
			Title:      fmt.Sprintf("Short connections, %d clients, slots: %d", clients, slots),
			References: haproxies,
		}, front{slots: slots, locks: 1}, b.withBefore(direct, haproxyDefault, haproxyOneThread, bareCaddy,
			lockLinger0, lockDefault, proxyLinger0, proxyDefault, loggingLinger0, loggingDefault)...)
	}
}

// undueHooks measures the cost of hooks that do not run for a connection.
func undueHooks(ctx context.Context, b *bench) ([]*result, error) {
	hook := func(moment string) string {
		return fmt.Sprintf("\non %s {\nevery 1000000\nexec true\n}", moment)
	}
	return b.short(ctx, &result{
		Name:       "hooks",
		Title:      "Hooks that are not due (every 1000000), linger 0",
		References: []string{"no hook"},
	}, front{slots: 1, locks: 1},
		server{name: "no hook", options: "linger 0"},
		server{name: "on activate", options: "linger 0" + hook("activate")},
		server{name: "on activate, on release", options: "linger 0" + hook("activate") + hook("release")})
}

func (b *bench) short(ctx context.Context, r *result, f front, servers ...server) ([]*result, error) {
	s, err := newService(answerOnce)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	f.service = s.addr()
	targets, err := b.put(ctx, f, servers...)
	if err != nil {
		return nil, err
	}
	r.Quantities = []quantity{{"conn/s", true}, {"server's CPU us/conn", false}}
	var trials []trial
	for _, t := range targets {
		trials = append(trials, trial{r, t.name, func(ctx context.Context, d time.Duration) ([]float64, error) {
			return shortRound(ctx, r, t, d)
		}})
	}
	return []*result{r}, b.alternate(ctx, trials)
}

func shortRound(ctx context.Context, r *result, t *target, d time.Duration) ([]float64, error) {
	before, err := t.cpu()
	if err != nil {
		return nil, err
	}
	found, err := load{clients: clients, time: d}.run(ctx, t)
	if err != nil {
		return nil, err
	}
	r.remarkForgotten(t, found.forgotten)
	after, err := t.cpu()
	answered := float64(found.answered)
	return []float64{answered / found.took.Seconds(), (after - before).Seconds() * 1e6 / answered}, err
}
