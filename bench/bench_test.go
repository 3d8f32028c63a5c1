package main

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"net"
	"net/netip"
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
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // PostgreSQL must get to its folder
		t.Fatal(err)
	}
	s := settings{
		rounds:   1,
		duration: 200 * time.Millisecond,
		settle:   150 * time.Millisecond,
		only:     regexp.MustCompile(""),
		lines:    []int{5, 20, 200},
		memory:   []int{100, 200},
		counted:  100,
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
	complete := checkResults(t, r.Results)
	for _, g := range r.Goals {
		if strings.Contains(g.What, "lost by reloads") && g.Reference == "" && g.Met != "yes" {
			t.Errorf("%s: found %v, expected none", g.What, g.Measured)
		}
	}
	// All goals of the design but those against an older Caddy: short connections, hand-off, memory, bulk,
	// real work, queue, reloads. A goal against bare Caddy needs a connection that it loses.
	const goals = 4 + 3 + 2*2 + 2 + 4*2*2 + 2 + 3
	if n := len(r.Goals); complete && n != goals && n != goals-1 {
		t.Errorf("found %d goals, expected %d", len(r.Goals), goals)
	}
	for _, name := range []string{"short", "handoff", "memory", "bulk", "costs", "locks"} {
		checkSVG(t, filepath.Join(dir, name+".svg"))
	}
}

// checkResults returns false if a program for a measurement is missing.
func checkResults(t *testing.T, results findings) (complete bool) {
	var names []string
	complete = true
	for _, r := range results {
		names = append(names, r.Name)
		if r.Missing != "" && os.Getenv("TCPLOCK_REQUIRE_SERVICES") != "1" {
			complete = false
			t.Logf("%s: not measured: %s", r.Name, r.Missing)
		} else if r.Missing != "" || len(r.Targets) < 2 {
			t.Errorf("%s: found %d targets, and missing: %q, expected some and nothing", r.Name, len(r.Targets), r.Missing)
		}
		for _, s := range r.Targets {
			for i, q := range r.Quantities {
				for _, v := range s.values(i) {
					// A small run may use less processor time than one tick, and the memory
					// of a few waiters is less than the noise.
					if math.IsNaN(v) || v < 0 && !strings.HasPrefix(r.Name, "memory") || q.More && v == 0 {
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
		"memory-100 memory-200 bulk-down bulk-up costs-1 costs-calls-1 costs-go-1 costs-16 costs-calls-16 costs-go-16 " +
		"real-libreoffice real-pgbench real-curl-1 real-curl-4 hooks locks-start locks reload reload-lost queue queue-handoff queue-leave plan")
	if !slices.Equal(names, want) {
		t.Errorf("found the results %v, expected %v", names, want)
	}
	return complete
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
		goal   goal
		rounds []float64
		met    string
	}{
		{goal{AtLeast: true, Bound: 1.1, Measured: 1.2}, nil, "yes"},
		{goal{AtLeast: true, Bound: 1.1, Measured: 1.1}, nil, "yes"},
		{goal{AtLeast: true, Bound: 1.1, Measured: 1}, []float64{1, 1, 1.2}, "NO"},
		{goal{Bound: 0.85, Measured: 0.8}, nil, "yes"},
		{goal{Bound: 0.85, Measured: 0.85}, nil, "yes"},
		{goal{Bound: 0, Measured: 1}, nil, "NO"},
		{goal{AtLeast: true, Bound: 1, Measured: 0.9, Noisy: true}, []float64{0.8, 0.8, 0.9, 0.9, 0.9, 1, 1.1}, "same"},
		{goal{AtLeast: true, Bound: 1, Measured: 0.9, Noisy: true}, []float64{0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 1.1}, "NO"},
	} {
		if got := c.goal.met(c.rounds); got != c.met {
			t.Errorf("%+v: found met: %s, expected %s", c.goal, got, c.met)
		}
	}
}

// An older Caddy is measured beside the other one, with the same config.
func TestBefore(t *testing.T) {
	b := &bench{dir: t.TempDir(), settings: settings{lines: []int{1}, before: filepath.Join(t.TempDir(), "before")}}
	var err error
	if b.caddy, err = build(t.Context(), b.dir); err == nil {
		err = os.Link(b.caddy, b.before)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.stopAll()
	servers := b.withBefore(direct, haproxyDefault, bareCaddy, lockLinger0)
	if n := len(servers); n != 5 || servers[4].name != "tcplock before, linger 0" {
		t.Fatalf("found %v, expected one more server, with an older tcplock", servers)
	}
	for _, s := range servers[3:] {
		target, err := b.start(t.Context(), front{service: "127.0.0.1:1", slots: 1, locks: 1}, s)
		if err != nil {
			t.Fatal(err)
		}
		runs, err := os.Readlink(target.proc("exe"))
		if want := map[bool]string{false: b.caddy, true: b.before}[s.before]; err != nil || runs != want {
			t.Errorf("%s: found that %s runs, error %v, expected %s", s.name, runs, err, want)
		}
	}
}

// One address has ports for fewer clients than a long line has.
func TestDialFromSeveralAddresses(t *testing.T) {
	s, err := newService(answerOnce)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	from := make(map[netip.Addr]bool)
	for _, i := range []int{0, 20_000, 40_000, 60_000, 80_000, 99_999} {
		c, err := dial(t.Context(), i, netip.MustParseAddrPort(s.addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from[c.LocalAddr().(*net.TCPAddr).AddrPort().Addr()] = true
	}
	if len(from) != 5 {
		t.Errorf("found the addresses %v, expected 5", from)
	}
}

func TestCallsByName(t *testing.T) {
	names := callNames{"read": {"a": 2, "b": 4}, "write": {"b": 6}, "brk": {"a": 0.01}}
	r := names.result(&result{Name: "costs-1", Targets: []*series{{Target: "a"}, {Target: "b"}}})
	var out strings.Builder
	r.print(&out)
	if rows := strings.Fields(out.String()); !slices.Equal(rows[len(rows)-8:], strings.Fields("a b write 0.00 6.00 read 2.00 4.00")) {
		t.Errorf("found %s, expected the rows write and read", &out)
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
