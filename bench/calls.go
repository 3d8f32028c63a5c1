package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// callNames has how often each server makes each system call, for a connection.
type callNames map[string]map[string]float64 // by call and server

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
	var found tally
	calls, err := b.strace(ctx, t, func() (err error) {
		found, err = b.connect(ctx, t, b.counted)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.remarkForgotten(t, found.forgotten)
	var total float64
	for call, n := range calls {
		each := float64(n) / float64(b.counted)
		if names[call] == nil {
			names[call] = make(map[string]float64)
		}
		names[call][t.name] += each / float64(b.fewRounds())
		if call != monitor {
			total += each
		}
	}
	return []float64{total}, nil
}

// strace counts the system calls of a server while do runs.
func (b *bench) strace(ctx context.Context, t *target, do func() error) (map[string]int, error) {
	p, table, err := b.attach(ctx, t)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := do(); err != nil {
		return nil, err
	}
	p.stop()
	text, err := os.ReadFile(table)
	if err != nil {
		return nil, err
	}
	calls := make(map[string]int)
	for _, line := range callLine.FindAllStringSubmatch(string(text), -1) {
		if calls[line[1]], err = strconv.Atoi(line[2]); err != nil {
			return nil, err
		}
	}
	if delete(calls, "total"); len(calls) == 0 {
		return nil, p.failure(fmt.Sprintf("found no system call in %q", text))
	}
	return calls, nil
}

// attach starts strace, which writes a table when it is stopped.
func (b *bench) attach(ctx context.Context, t *target) (p *process, table string, err error) {
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		return nil, "", err
	}
	table = filepath.Join(dir, "calls")
	p, err = start(dir, "strace", "strace", "-f", "-c", "-U", "name,calls", "-o", table, "-p", strconv.Itoa(t.cmd.Process.Pid))
	if err != nil {
		return nil, "", err
	}
	p.quit = os.Interrupt
	if err = p.prints(ctx, " attached"); err != nil {
		p.stop()
	}
	return p, table, err
}

// missingStrace tells why the system calls of a server cannot be counted, "" if they can. On some systems
// only root may trace a process that it has not started itself.
func (b *bench) missingStrace(ctx context.Context, t *target) string {
	if missing := missingPrograms("strace", "strace"); missing != "" {
		return missing
	}
	p, _, err := b.attach(ctx, t)
	if err != nil {
		return "found that strace cannot trace the server: " + err.Error()
	}
	p.stop()
	return ""
}

var callLine = regexp.MustCompile(`(?m)^(\w+) +(\d+)$`)
