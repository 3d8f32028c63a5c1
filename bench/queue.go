package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// queueName and semaphoreName are the names in the benchmarks of internal/queue.
const (
	queueName     = "impl=queue"
	semaphoreName = "impl=semaphore"
)

// queue runs the benchmarks of internal/queue: the queue alone, without connections.
func queue(ctx context.Context, b *bench) ([]*result, error) {
	quantities := []quantity{{"ns", false}, {"allocations", false}}
	uncontended := &result{
		Name:       "queue",
		Title:      "The queue alone: acquire and release, uncontended, beside golang.org/x/sync/semaphore",
		References: []string{semaphoreName},
		Quantities: quantities,
	}
	lengths := []*result{
		{Name: "queue-handoff", Title: "The queue alone: hand-off, and one that joins", References: []string{waitersTarget(10)}, Quantities: quantities},
		{Name: "queue-leave", Title: "The queue alone: one that leaves from the middle, and one that joins", References: []string{waitersTarget(10)}, Quantities: quantities},
	}
	program := filepath.Join(b.dir, "queue.test")
	if err := goIn(ctx, "test", "-c", "-o", program, "./internal/queue"); err != nil {
		return nil, err
	}
	for range b.rounds { // -test.count would not alternate
		cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.benchmem", "-test.benchtime", (b.duration / 4).String(),
			"-test.bench", "^Benchmark(Uncontended|HandOff|LeaveMiddle)$/^(impl=.*|line=plain|waiters=.*)$")
		cmd.Dir = b.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("benchmarks: %w\n%s", err, out)
		}
		for _, line := range benchmarkLine.FindAllStringSubmatch(string(out), -1) {
			name, found := line[1], make([]float64, 2)
			for i, text := range line[2:] {
				if found[i], err = strconv.ParseFloat(text, 64); err != nil {
					return nil, err
				}
			}
			_, waiters, _ := strings.Cut(name, "waiters=")
			switch {
			case strings.HasPrefix(name, "Uncontended/"):
				uncontended.add(strings.TrimPrefix(name, "Uncontended/"), found...)
			case strings.HasPrefix(name, "HandOff/"):
				lengths[0].add("waiters: "+waiters, found...)
			default:
				lengths[1].add("waiters: "+waiters, found...)
			}
		}
	}
	return append([]*result{uncontended}, lengths...), nil
}

var benchmarkLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(\S+) ns/op.*\s(\d+) allocs/op`)
