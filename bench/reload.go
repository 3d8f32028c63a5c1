package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// reload measures what a reload costs: first the clients in line, then those that come and go.
func reload(ctx context.Context, b *bench) ([]*result, error) {
	line, err := reloadLine(ctx, b)
	if err != nil {
		return nil, err
	}
	b.stopAll()
	lost, err := reloadLoad(ctx, b)
	return []*result{line, lost}, err
}

// reloadLine measures how long Caddy needs to load a config while clients wait. It counts the clients
// that get no answer after that.
func reloadLine(ctx context.Context, b *bench) (*result, error) {
	r := &result{
		Name:       "reload",
		Title:      "Reload with another wait_timeout, while clients wait",
		Quantities: []quantity{{"ms", false}, {"slowest ms", false}, {"lost", false}},
	}
	d, err := b.doorway(ctx, server{name: "tcplock", options: "wait_timeout 1h"}, b.waiters())
	if err != nil {
		return nil, err
	}
	defer d.stop()
	var trials []trial
	for _, n := range []int{0, b.waiters()} {
		if r.Missing = missingDescriptors(n); r.Missing != "" {
			return r, nil
		}
		trials = append(trials, trial{r, waitersTarget(n), func(ctx context.Context, _ time.Duration) ([]float64, error) {
			return d.reloads(ctx, n)
		}})
	}
	return r, b.alternate(ctx, trials)
}

func waitersTarget(n int) string { return fmt.Sprintf("waiters: %d", n) }

func (d *doorway) reloads(ctx context.Context, n int) ([]float64, error) {
	l, err := d.line(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer l.cut()
	var took []float64
	for range 2 {
		for _, wait := range []string{"2h", "1h"} {
			config := strings.Replace(d.config, "wait_timeout 1h", "wait_timeout "+wait, 1)
			ms, err := d.load(ctx, config)
			if err != nil {
				return nil, err
			}
			took = append(took, ms)
		}
	}
	d.open()
	defer d.shut()
	err = until(ctx, "all waiters were answered or have failed", func() (bool, error) {
		return l.ended() == n+1, nil
	})
	return []float64{median(took), slices.Max(took), float64(len(l.failed))}, err
}

// load makes Caddy load a config. It returns how many milliseconds that took.
func (t *target) load(ctx context.Context, config string) (ms float64, err error) {
	for range 10 {
		start := time.Now()
		_, err = t.call(ctx, http.MethodPost, "/load", strings.NewReader(config))
		ms = float64(time.Since(start)) / float64(time.Millisecond)
		// A load also replaces the listener of the admin API. A request that just then
		// reaches the old one gets a reset or no answer.
		if unanswered := (*url.Error)(nil); !errors.As(err, &unanswered) {
			break
		}
	}
	return ms, err
}

// reloadLoad counts the short connections that fail while Caddy loads its config again and again.
func reloadLoad(ctx context.Context, b *bench) (*result, error) {
	const clients, slots = 24, 4
	r := &result{
		Name:       "reload-lost",
		Title:      fmt.Sprintf("Connections lost while Caddy loads its config again and again, %d clients, slots: %d", clients, slots),
		Quantities: []quantity{{"lost of 10,000", false}, {"reloads", true}, {"connections", true}},
	}
	s, err := newService(answerOnce)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	targets, err := b.put(ctx, front{service: s.addr(), slots: slots, locks: 1}, b.withBefore(bareCaddy, lockDefault, proxyDefault)...)
	if err != nil {
		return nil, err
	}
	var trials []trial
	for _, t := range targets {
		trials = append(trials, trial{r, t.name, func(ctx context.Context, d time.Duration) ([]float64, error) {
			return t.reloadsUnder(ctx, load{clients: clients, time: d, lossy: true})
		}})
	}
	return r, b.alternate(ctx, trials)
}

func (t *target) reloadsUnder(ctx context.Context, l load) ([]float64, error) {
	var (
		found tally
		err   error
		over  = make(chan struct{})
	)
	go func() {
		defer close(over)
		found, err = l.run(ctx, t)
	}()
	for reloads := 0.; ; reloads++ {
		select {
		case <-over:
			connections := float64(found.answered + found.lost)
			return []float64{float64(found.lost) / connections * 10_000, reloads, connections}, err
		case <-time.After(time.Millisecond):
		}
		if _, err := t.load(ctx, t.config); err != nil {
			return nil, err
		}
	}
}
