package main

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// All measurements, on a small scale, with the real programs. They must end and be complete. The
// figures mean nothing.
func TestAll(t *testing.T) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		if os.Getenv("TCPLOCK_REQUIRE_SERVICES") == "1" {
			t.Fatal("found no haproxy, expected it: TCPLOCK_REQUIRE_SERVICES is 1")
		}
		t.Skip("found no haproxy")
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	s := settings{
		rounds:   1,
		duration: 400 * time.Millisecond,
		settle:   150 * time.Millisecond,
		only:     regexp.MustCompile(""),
		lines:    []int{5, 20, 200},
		locks:    20,
		svg:      dir,
		json:     filepath.Join(dir, "bench.json"),
	}
	if err := run(t.Context(), s, t.Output()); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) > 0 {
		t.Errorf("found %v left behind, error %v, expected neither", left, err)
	}

	text, err := os.ReadFile(s.json)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	checkResults(t, r.Results)
	for _, g := range r.Goals {
		if g.What == "waiters lost by reloads" && !g.met() {
			t.Errorf("found %v waiters lost by a reload, expected none", g.Measured)
		}
	}
	// All goals of the design. A goal against HAProxy counts twice, once for each way to run it.
	const goals = 2*2 + 3*2*2 + 1 + 2 + 2 + 2 + 1
	if len(r.Goals) != goals {
		t.Errorf("found %d goals, expected %d", len(r.Goals), goals)
	}
	for _, name := range []string{"short", "handoff", "memory", "bulk", "locks"} {
		checkSVG(t, filepath.Join(dir, name+".svg"))
	}
}

func checkResults(t *testing.T, results findings) {
	var names []string
	for _, r := range results {
		names = append(names, r.Name)
		if r.Missing != "" || len(r.Targets) < 2 {
			t.Errorf("%s: found %d targets, and missing: %q, expected some and nothing", r.Name, len(r.Targets), r.Missing)
		}
		for _, s := range r.Targets {
			for i, q := range r.Quantities {
				for _, v := range s.values(i) {
					// A small run may use less processor time than one tick, and the memory
					// of a few waiters is less than the noise.
					if math.IsNaN(v) || v < 0 && r.Name != "memory" || q.More && v == 0 {
						t.Errorf("%s, %s: found %v %s, expected more", r.Name, s.Target, v, q.Name)
					}
				}
				if len(s.Rounds) != 1 {
					t.Errorf("%s, %s: found %d rounds, expected 1", r.Name, s.Target, len(s.Rounds))
				}
			}
		}
	}
	want := strings.Fields("short-1 short-4 short-16 handoff-5 handoff-20 handoff-200 handoff-calm-5 handoff-calm-20 handoff-calm-200 " +
		"memory bulk-down bulk-up hooks locks-start locks reload queue queue-handoff queue-leave plan")
	if !slices.Equal(names, want) {
		t.Errorf("found the results %v, expected %v", names, want)
	}
}

func checkSVG(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Errorf("%s: %v", file, err)
			return
		}
	}
}

// Ratios are computed within a round, so that a machine that is slow for a while is slow for both.
func TestRatios(t *testing.T) {
	r := &result{References: []string{"slow", "fast", "absent"}, Quantities: []quantity{{"conn/s", true}, {"us", false}}}
	for _, machine := range []float64{1, 0.1, 0.5} {
		r.add("slow", 100*machine, 20/machine)
		r.add("fast", 200*machine, 10/machine)
		r.add("ours", 300*machine, 5/machine)
	}
	for i, want := range []float64{1.5, 0.5} {
		ref := r.reference(i)
		if ref != r.of("fast") {
			t.Fatalf("found the reference %v, expected the best one", ref)
		}
		if got := median(r.of("ours").ratios(ref, i)); math.Abs(got-want) > 1e-9 {
			t.Errorf("found a ratio of %v, expected %v", got, want)
		}
	}
	if got := r.of("ours").ratios(r.of("absent"), 0); got != nil {
		t.Errorf("found ratios %v to what was not measured, expected none", got)
	}
}

func TestGoalIsMet(t *testing.T) {
	for _, c := range []struct {
		goal goal
		met  bool
	}{
		{goal{AtLeast: true, Bound: 1.1, Measured: 1.2}, true},
		{goal{AtLeast: true, Bound: 1.1, Measured: 1.1}, true},
		{goal{AtLeast: true, Bound: 1.1, Measured: 1}, false},
		{goal{Bound: 0.85, Measured: 0.8}, true},
		{goal{Bound: 0.85, Measured: 0.85}, true},
		{goal{Bound: 0, Measured: 1}, false},
	} {
		if c.goal.met() != c.met {
			t.Errorf("found %+v met: %t, expected %t", c.goal, c.goal.met(), c.met)
		}
	}
}

// Gaps count only while the gate is open, and only between two connections.
func TestGatedServiceNotesGaps(t *testing.T) {
	g, err := newGated()
	if err != nil {
		t.Fatal(err)
	}
	g.shut()
	defer func() {
		g.open()
		g.service.stop()
	}()
	d := &doorway{target: &target{}, gated: g}
	ask := func(n int) {
		g.open()
		for range n {
			if err := d.askService(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(3)
	if gaps := g.shut(); len(gaps) != 2 || gaps[0] <= 0 || gaps[0] > gaps[1] {
		t.Errorf("found the gaps %v, expected two, by length", gaps)
	}
	ask(1)
	if gaps := g.shut(); len(gaps) != 0 {
		t.Errorf("found the gaps %v of one connection, expected none", gaps)
	}
}
