// Command bench measures tcplock beside its peers: HAProxy, and caddy-l4 without a lock.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// settings are what the flags say, and what the tests make smaller.
type settings struct {
	caddy    string         // the program, with this plugin
	rounds   int            // how often each target is measured
	duration time.Duration  // of a round at one target
	settle   time.Duration  // how long a process's memory must stay the same
	only     *regexp.Regexp // the measurements to run
	lines    []int          // how many wait
	locks    int            // how many there are in one process
}

// waiters is the length of the longest line.
func (s *settings) waiters() int { return slices.Max(s.lines) }

// measurements are run in this order. Each may have several results.
var measurements = []struct {
	name string
	run  func(context.Context, *bench) ([]*result, error)
}{
	{"short-1", short(1)},
	{"short-4", short(4)},
	{"short-16", short(16)},
	{"handoff", handOff},
	{"memory", memory},
	{"bulk", bulk},
	{"hooks", undueHooks},
	{"locks", manyLocks},
	{"reload", reload},
}

func main() {
	s := settings{settle: 3 * time.Second, lines: []int{10, 500, 10_000}, locks: 1_000}
	only := flag.String("only", "", "run the measurements whose names match this `regexp`")
	flag.StringVar(&s.caddy, "caddy", "", "Caddy with this plugin, `file`; default: it is built from the tree")
	flag.IntVar(&s.rounds, "rounds", 5, "how `often` each target is measured")
	flag.DurationVar(&s.duration, "duration", 2*time.Second, "how `long` a round at one target takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s.only = regexp.MustCompile(*only)
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp("", "tcplock-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{settings: s, dir: dir}
	if b.caddy == "" {
		if b.caddy, err = build(ctx, dir); err != nil {
			return err
		}
	}
	for _, m := range measurements {
		if !s.only.MatchString(m.name) {
			continue
		}
		results, err := m.run(ctx, b)
		b.stopAll()
		if err != nil {
			return err
		}
		for _, r := range results {
			r.print(os.Stdout)
		}
	}
	return nil
}

// build compiles Caddy with this tree's plugin.
func build(ctx context.Context, dir string) (program string, err error) {
	program = filepath.Join(dir, "caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, "./cmd/caddy")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/caddy: %w\n%s", err, out)
	}
	return program, nil
}
