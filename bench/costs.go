package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
	missing := missingPrograms("strace", "strace")
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
	names := newCallNames()
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

// callNames has how often each server makes each system call, for a connection.
type callNames map[string]map[string]float64 // by call and server

func newCallNames() callNames { return make(callNames) }

// result is a table with a row for each system call that a server makes for one of ten connections.
func (c callNames) result(of *result) *result {
	r := &result{
		Name:    strings.Replace(of.Name, "costs", "costs-calls", 1),
		Title:   strings.Replace(of.Title, "System calls", "The system calls", 1) + ": the average of the rounds",
		Missing: of.Missing,
	}
	for _, s := range of.Targets {
		r.Quantities = append(r.Quantities, quantity{s.Target, false})
	}
	often := func(call string) float64 { return slices.Max(slices.Collect(maps.Values(c[call]))) }
	calls := slices.SortedFunc(maps.Keys(c), func(a, b string) int { return cmp.Compare(often(b), often(a)) })
	for _, call := range calls {
		var row []float64
		for _, s := range of.Targets {
			row = append(row, c[call][s.Target])
		}
		if slices.Max(row) >= 0.1 {
			r.add(call, row...)
		}
	}
	return r
}

// monitor is what the thread of Go's runtime calls that watches the others: again and again, however
// many connections there are. It does not count.
const monitor = "nanosleep"

// countCalls counts the system calls of a server with strace, while it serves connections.
func (b *bench) countCalls(ctx context.Context, r *result, names callNames, t *target) ([]float64, error) {
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		return nil, err
	}
	table := filepath.Join(dir, "calls")
	strace, err := start(dir, "strace", "strace", "-f", "-c", "-U", "name,calls", "-o", table, "-p", strconv.Itoa(t.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	defer strace.stop()
	if err := strace.prints(ctx, " attached"); err != nil {
		return nil, err
	}
	found, err := b.connect(ctx, t, b.counted)
	if err != nil {
		return nil, err
	}
	r.remarkForgotten(t, found.forgotten)
	_ = strace.cmd.Process.Signal(syscall.SIGINT) // strace detaches and writes its table
	select {
	case <-strace.ended:
	case <-time.After(patience):
		return nil, strace.failure("it does not end")
	}
	text, err := os.ReadFile(table)
	if err != nil {
		return nil, err
	}
	var total float64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[0] == "total" {
			continue
		}
		n, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			continue // the head of the table
		}
		n /= float64(found.answered)
		if names[fields[0]] == nil {
			names[fields[0]] = make(map[string]float64)
		}
		names[fields[0]][t.name] += n / float64(b.fewRounds())
		if fields[0] != monitor {
			total += n
		}
	}
	if total == 0 {
		return nil, strace.failure(fmt.Sprintf("found no system call in %q", text))
	}
	return []float64{total}, nil
}

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

// countSwitches counts in Go's execution trace how often a goroutine begins to run or goes on.
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
		return 0, fmt.Errorf("found that the trace ended before the connections, expected it to end after them")
	}
	a := <-traced
	if a.err != nil {
		return 0, a.err
	}
	file := filepath.Join(b.dir, "trace")
	if err := os.WriteFile(file, a.trace, 0o600); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", "trace", "-d=parsed", file)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	events, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	switches := 0
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if bytes.Contains(lines.Bytes(), []byte(" Runnable->Running ")) {
			switches++
		}
	}
	if err := cmd.Wait(); err != nil || lines.Err() != nil || switches == 0 {
		return 0, fmt.Errorf("go tool trace: found %d switches, errors %v and %v\n%s", switches, err, lines.Err(), complaints.Bytes())
	}
	return float64(switches) / float64(n), nil
}
