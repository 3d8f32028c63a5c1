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
	"time"
)

// settings are what the flags say.
type settings struct {
	caddy    string        // the program, with this plugin
	rounds   int           // how often each target is measured
	duration time.Duration // of a round at one target
}

func main() {
	var s settings
	flag.StringVar(&s.caddy, "caddy", "", "Caddy with this plugin, `file`; default: it is built from the tree")
	flag.IntVar(&s.rounds, "rounds", 5, "how `often` each target is measured")
	flag.DurationVar(&s.duration, "duration", 2*time.Second, "how `long` a round at one target takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
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
	for _, slots := range []int{1} {
		r, err := b.short(ctx, slots)
		if err != nil {
			return err
		}
		r.print(os.Stdout)
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
