package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// memory measures how much memory of the server a waiter takes. Each round starts a new server,
// because a server does not give memory back at once.
func memory(ctx context.Context, b *bench) ([]*result, error) {
	var results []*result
	for i, n := range b.memory {
		r := &result{
			Name:       fmt.Sprintf("memory-%d", n),
			Title:      fmt.Sprintf("Memory of the server for each waiter, waiters: %d", n),
			References: haproxies,
			Quantities: []quantity{{"KiB", false}, {"KiB, garbage collected", false}},
			Missing:    missingDescriptors(n),
		}
		results = append(results, r)
		if r.Missing != "" {
			continue
		}
		var trials []trial
		for _, s := range b.withBefore(haproxyDefault, haproxyOneThread, lockDefault, proxyDefault) {
			trials = append(trials, trial{r, s.name, func(ctx context.Context, _ time.Duration) ([]float64, error) {
				return b.memoryOf(ctx, s, n)
			}})
		}
		rounds := b.rounds
		if i > 0 { // these take long, and differ little
			rounds = b.fewRounds()
		}
		if err := alternateCold(ctx, trials, rounds, b.duration); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (b *bench) memoryOf(ctx context.Context, s server, n int) ([]float64, error) {
	d, err := b.doorway(ctx, s, n)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	empty, err := d.memory(ctx, true)
	if err != nil {
		return nil, err
	}
	l, err := d.line(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer l.cut()
	asItIs, err := d.memory(ctx, false)
	if err != nil {
		return nil, err
	}
	collected, err := d.memory(ctx, true)
	return []float64{(asItIs - empty) / float64(n), (collected - empty) / float64(n)}, err
}

// memory is the memory of the server in KiB, if collect is set after it has collected its garbage.
func (d *doorway) memory(ctx context.Context, collect bool) (kib float64, err error) {
	if collect {
		if err := d.collect(ctx); err != nil {
			return 0, err
		}
	}
	return d.settledRSS(ctx, d.bench.settle)
}

// collect makes Caddy collect its garbage. Caddy does so by itself within two minutes. HAProxy has no
// garbage.
func (t *target) collect(ctx context.Context) error {
	if t.admin == "" {
		return nil
	}
	_, err := t.call(ctx, http.MethodGet, "/debug/pprof/heap?gc=1", nil)
	return err
}

// call sends a request to Caddy's admin API, and returns the answer.
func (t *target) call(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+t.admin+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate") // load a config even if it is the same
	request.Close = true                                   // an open connection would count as a descriptor
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: found %s, expected 200: %s", method, path, response.Status, text)
	}
	return text, err
}
