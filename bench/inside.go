package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// countInside counts what happens within Caddy while it serves connections.
func (b *bench) countInside(ctx context.Context, t *target) ([]float64, error) {
	var seen [3]memstats // the first two show what it costs to look
	for i := range seen {
		if i == 2 {
			if _, err := b.connect(ctx, t, b.counted); err != nil {
				return nil, err
			}
		}
		if err := seen[i].read(ctx, t); err != nil {
			return nil, err
		}
	}
	each := func(of func(memstats) float64) float64 {
		return (of(seen[2]) - 2*of(seen[1]) + of(seen[0])) / float64(b.counted)
	}
	switches, err := b.countSwitches(ctx, t)
	return []float64{
		each(func(m memstats) float64 { return float64(m.Mallocs) }),
		each(func(m memstats) float64 { return float64(m.TotalAlloc) }),
		switches,
	}, err
}

// memstats is a part of runtime.MemStats.
type memstats struct{ Mallocs, TotalAlloc uint64 }

func (m *memstats) read(ctx context.Context, t *target) error {
	text, err := t.call(ctx, http.MethodGet, "/debug/vars", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, &struct{ Memstats *memstats }{m})
}

// countSwitches counts in Go's execution trace how often a goroutine begins to run, or goes on after it
// has waited.
func (b *bench) countSwitches(ctx context.Context, t *target) (float64, error) {
	n := max(1, b.counted/4) // since the trace is long
	began := time.Now()
	if _, err := b.connect(ctx, t, n); err != nil {
		return 0, err
	}
	type answer struct {
		trace []byte
		err   error
	}
	traced := make(chan answer, 1)
	go func() {
		seconds := 3*time.Since(began).Seconds() + 0.5
		trace, err := t.call(ctx, http.MethodGet, fmt.Sprintf("/debug/pprof/trace?seconds=%f", seconds), nil)
		traced <- answer{trace, err}
	}()
	time.Sleep(200 * time.Millisecond) // the trace has begun, and the request for it is not in it
	if _, err := b.connect(ctx, t, n); err != nil {
		return 0, err
	}
	if len(traced) > 0 {
		return 0, errors.New("found that the trace ended before the connections, expected it to end after them")
	}
	a := <-traced
	if a.err != nil {
		return 0, a.err
	}
	switches, err := b.switchesIn(ctx, a.trace)
	return float64(switches) / float64(n), err
}

func (b *bench) switchesIn(ctx context.Context, trace []byte) (switches int, err error) {
	file := filepath.Join(b.dir, "trace")
	if err := os.WriteFile(file, trace, 0o600); err != nil {
		return 0, err
	}
	var complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "tool", "trace", "-d=parsed", file)
	cmd.Stderr = &complaints
	events, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		switch line := lines.Bytes(); {
		case bytes.Contains(line, []byte(" Runnable->Running ")):
			switches++
		case bytes.Contains(line, []byte(` Running->Runnable Reason="runtime.Gosched"`)):
			switches-- // Go's sweeper, which lets others go first again and again
		}
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil || switches == 0 {
		return 0, fmt.Errorf("go tool trace: found %d switches, error %v\n%s", switches, err, complaints.Bytes())
	}
	return switches, nil
}
