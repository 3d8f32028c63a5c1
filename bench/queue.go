package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// queueName and semaphoreName are what the benchmarks beside queue.go call the two.
const (
	queueName     = "impl=queue"
	semaphoreName = "impl=semaphore"
)

// queue runs the benchmarks of the queue alone, without any connection.
func queue(ctx context.Context, b *bench) ([]*result, error) {
	r := &result{
		Name:       "queue",
		Title:      "The queue alone: acquire and release, uncontended, beside golang.org/x/sync/semaphore",
		References: []string{semaphoreName},
		Quantities: []quantity{{"ns", false}, {"allocations", false}},
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-buildvcs=false", "-run", "^$", "-bench", "^BenchmarkUncontended$", "-benchmem",
		"-benchtime", (b.duration / 4).String(), "-count", strconv.Itoa(b.rounds), ".")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test: %w\n%s", err, out)
	}
	for _, line := range benchmarkLine.FindAllStringSubmatch(string(out), -1) {
		ns, _ := strconv.ParseFloat(line[2], 64)
		allocations, _ := strconv.ParseFloat(line[3], 64)
		r.add(line[1], ns, allocations)
	}
	if len(r.Targets) != 2 {
		return nil, fmt.Errorf("go test: found %d benchmarks, expected 2\n%s", len(r.Targets), out)
	}
	return []*result{r}, nil
}

var benchmarkLine = regexp.MustCompile(`(?m)^BenchmarkUncontended/(\S+?)(?:-\d+)?\s+\d+\s+(\S+) ns/op.*\s(\d+) allocs/op`)
