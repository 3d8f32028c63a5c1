// Command bench measures tcplock beside its peers: HAProxy, and caddy-l4 without a lock.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings come from the flags. The tests use smaller ones.
type settings struct {
	caddy    string         // the path of Caddy with this plugin
	before   string         // the path of an older one, to compare with; empty: none
	rounds   int            // how often to measure each target
	duration time.Duration  // of a round at one target
	settle   time.Duration  // how long the memory must stay the same; for descriptors a 15th of it
	only     *regexp.Regexp // the measurements to run
	lines    []int          // the numbers of waiters
	memory   []int          // the numbers of waiters for the memory
	counted  int            // how many connections the system calls are counted for
	locks    int            // the number of locks in one process
	svg      string         // the directory for the plots
	json     string         // the file for all figures
}

// waiters is the length of the longest line.
func (s *settings) waiters() int { return slices.Max(s.lines) }

// measurements has all measurements in the order in which they run. Each may have several results.
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
	{"costs", costs},
	{"real-libreoffice", realWork(office)},
	{"real-pgbench", realWork(postgres)},
	{"real-curl-1", realWork(web(1))},
	{"real-curl-4", realWork(web(4))},
	{"hooks", undueHooks},
	{"locks", manyLocks},
	{"reload", reload},
	{"queue", queue},
	{"plan", plan},
}

func main() {
	s := settings{settle: 3 * time.Second, lines: []int{10, 500, 10_000}, memory: []int{10_000, 100_000}, locks: 1_000, counted: 2_000}
	only := flag.String("only", "", "run the measurements whose names match this `regexp`, of:"+names())
	flag.StringVar(&s.caddy, "caddy", "", "Caddy with this plugin, a `file`; default: it is built from this tree")
	flag.StringVar(&s.before, "before", "", "an older Caddy with this plugin, a `file`: it is measured beside the other one")
	flag.IntVar(&s.rounds, "rounds", 7, "how `often` each target is measured")
	flag.DurationVar(&s.duration, "duration", 2*time.Second, "how `long` a round at one target takes")
	flag.StringVar(&s.svg, "svg", "out", "the `directory` for the plots")
	flag.StringVar(&s.json, "json", "out/bench.json", "the `file` for all figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := errors.New("found rounds or duration of 0, expected more")
	if s.rounds > 0 && s.duration > 0 {
		allowDescriptors(slices.Max(s.memory))
		if s.only, err = regexp.Compile(*only); err == nil {
			err = run(ctx, s, os.Stdout)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func names() (names string) {
	for _, m := range measurements {
		names += " " + m.name
	}
	return names
}

// report is what the JSON file contains.
type report struct {
	Machine  machine       `json:"machine"`
	Began    time.Time     `json:"began"`
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"duration_ns"`
	Results  findings      `json:"results"`
	Goals    []goal        `json:"goals"`
}

func run(ctx context.Context, s settings, out io.Writer) error {
	debug.SetGCPercent(400) // clients and service should use little of the processor
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
	r := report{Began: time.Now().UTC(), Rounds: s.rounds, Duration: s.duration}
	if r.Machine, err = thisMachine(); err != nil {
		return err
	}
	fmt.Fprintln(out, r.Machine)
	var failed []error // after one failure the other measurements go on
	for _, m := range measurements {
		if ctx.Err() != nil || !s.only.MatchString(m.name) {
			continue
		}
		start := time.Now()
		results, err := m.run(ctx, b)
		fmt.Fprintf(os.Stderr, "%s: %v\n", m.name, time.Since(start).Round(time.Second)) // shows progress
		b.stopAll()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.name, err))
			continue
		}
		for _, found := range results {
			found.print(out)
		}
		r.Results = append(r.Results, results...)
	}
	r.Goals = r.Results.goals(&s)
	printGoals(out, r.Goals)
	return errors.Join(append(failed, ctx.Err(), r.save(s.json), r.Results.plot(&s))...)
}

func (r *report) save(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// build compiles Caddy with the plugin of this tree.
func build(ctx context.Context, dir string) (program string, err error) {
	program = filepath.Join(dir, "caddy")
	return program, goIn(ctx, "build", "-o", program, "./cmd/caddy")
}

// goIn runs a go command in the root of the plugin.
func goIn(ctx context.Context, command string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{command, "-buildvcs=false"}, args...)...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s %s: %w\n%s", command, strings.Join(args, " "), err, out)
	}
	return nil
}
