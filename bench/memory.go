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
	n := b.waiters()
	r := &result{
		Name:       "memory",
		Title:      fmt.Sprintf("Memory of the server for each waiter, waiters: %d", n),
		References: haproxies,
		Quantities: []quantity{{"KiB", false}, {"KiB, garbage collected", false}},
		Missing:    missingDescriptors(n),
	}
	var trials []trial
	for _, s := range []server{haproxyDefault, haproxyOneThread, lockDefault} {
		trials = append(trials, trial{r, s.name, func(ctx context.Context, _ time.Duration) ([]float64, error) {
			return b.memoryOf(ctx, s, n)
		}})
	}
	if r.Missing != "" {
		trials = nil
	}
	return []*result{r}, b.alternateCold(ctx, trials)
}

func (b *bench) memoryOf(ctx context.Context, s server, n int) ([]float64, error) {
	d, err := b.doorway(ctx, s)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	var kib [3]float64 // without waiters; with waiters; with waiters, garbage collected
	measure := func(i int, collect bool) {
		if err == nil && collect {
			err = d.collect(ctx)
		}
		if err == nil {
			kib[i], err = d.settledRSS(ctx, b.settle)
		}
	}
	measure(0, true)
	if err != nil {
		return nil, err
	}
	l, err := d.line(ctx, n, false)
	if err != nil {
		return nil, err
	}
	defer l.cut()
	measure(1, false)
	measure(2, true)
	return []float64{(kib[1] - kib[0]) / float64(n), (kib[2] - kib[0]) / float64(n)}, err
}

// collect makes Caddy collect its garbage. Caddy does so by itself within two minutes. HAProxy has no
// garbage.
func (t *target) collect(ctx context.Context) error {
	if t.admin == "" {
		return nil
	}
	return t.call(ctx, http.MethodGet, "/debug/pprof/heap?gc=1", nil)
}

// call sends a request to Caddy's admin API.
func (t *target) call(ctx context.Context, method, path string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+t.admin+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Close = true // an open connection would count as a descriptor
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: found %s, expected 200: %s", method, path, response.Status, text)
	}
	return err
}
