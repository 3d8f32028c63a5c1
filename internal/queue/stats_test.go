package queue

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Vacant closes its channel when there is no holder and no exclusive access: at once, or when the
// last of them has gone in any way, even if there are waiters.
func TestVacant(t *testing.T) {
	told := func(c <-chan struct{}, want bool) {
		t.Helper()
		if isDone(c) != want {
			t.Fatalf("found vacant %t, expected %t", !want, want)
		}
	}

	s := newScript(t, 1, Unlimited)
	told(s.q.Vacant(), true)
	s.joins("a", "1")
	s.joins("b", "waits")
	first, second := s.q.Vacant(), s.q.Vacant()
	s.release("a", "b")
	told(first, false)
	s.release("b", "")
	told(first, true)
	told(second, true)

	s.joins("c", "1") // what was vacant once stays so; ask again to hear of the next time
	told(first, true)
	third := s.q.Vacant()
	told(third, false)
	s.joins("d e", "waits")
	s.pause()
	s.release("c", "")
	told(third, true)
	told(s.q.Vacant(), true)
	s.resume("d")
	s.pause()
	fourth := s.q.Vacant()
	s.requeue("d", "")
	told(fourth, true)

	s = newScript(t, 1, Unlimited)
	s.tryExclusive("i", true)
	s.joins("a", "waits")
	fifth := s.q.Vacant()
	told(fifth, false)
	s.pause()
	s.endExclusive("i", "")
	told(fifth, true)
}

// Stats and Snapshot tell of one instant, and what they give is the caller's own.
func TestStatsAndSnapshot(t *testing.T) {
	s := newScript(t, 2, 2)
	if got, want := s.q.Stats(), (Stats{}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
	s.joins("a b", "1")           // at 0 s and 1 s
	s.joins("Cc", "waits")        // at 2 s
	s.joinsAs(7, "d", "waits")    // at 3 s
	s.joins("e", ErrFull.Error()) // at 4 s
	s.leave("d", true)            // at 5 s
	s.joinsAs(-1, "f", "waits")   // at 6 s
	s.release("a", "Cc")          // at 7 s
	stats, holders, waiters := s.q.Snapshot(unlimitedView)
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	want := Stats{
		Held: 2, Waiting: 1, Oldest: at(6),
		Total: Totals{Joined: 6, Refused: 1, Left: 1, Granted: 3},
	}
	if stats != want || s.q.Stats() != want {
		t.Fatalf("found %+v and %+v, expected %+v", stats, s.q.Stats(), want)
	}
	for _, p := range []*Waiter{&holders[0], &holders[1], &waiters[0]} {
		*p = shown(*p)
	}
	if want := []Waiter{
		{Owner: "Cc", Client: 'C', State: Holding, Slot: 1, Number: 3, Joined: at(2), Waited: 5 * time.Second},
		{Owner: "b", State: Holding, Slot: 2, Number: 2, Joined: at(1)},
	}; !slices.Equal(holders, want) {
		t.Fatalf("found holders %+v, expected %+v", holders, want)
	}
	if want := []Waiter{
		{Owner: "f", Priority: -1, State: Waiting, Ahead: 1, Joined: at(6)},
	}; !slices.Equal(waiters, want) {
		t.Fatalf("found waiters %+v, expected %+v", waiters, want)
	}
	if holders[0] != shown(s.q.Load(s.waiter("Cc"))) {
		t.Fatalf("found %+v, expected what the snapshot shows", s.q.Load(s.waiter("Cc")))
	}
	holders[0].Slot, waiters[0].State = 7, Gone
	s.state("Cc1 b2", "f")
}

// The waiter that has waited longest need not go first: it may have a low priority, or stand aside.
func TestStatsOldest(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 1, MaxWaiting: Unlimited, PerClient: 1})
	oldest := func(name string) {
		t.Helper()
		want := time.Time{}
		if name != "" {
			want = s.q.Load(s.waiter(name)).Joined
		}
		if got := s.q.Stats().Oldest; got != want {
			t.Fatalf("found %v, expected %v when %q joined", got, want, name)
		}
	}
	s.joins("Aa", "1")
	oldest("")
	s.joinsAs(1, "b", "waits")
	s.joins("Ac d", "waits")
	s.joinsAs(2, "e", "waits")
	oldest("b")
	s.release("Aa", "e")
	s.release("e", "b")
	oldest("Ac")
	s.release("b", "Ac")
	oldest("d")
	s.joins("Af", "waits")
	s.set(Bounds{Limit: 2, MaxWaiting: Unlimited, PerClient: 1}, "d")
	oldest("Af")
	s.release("d", "") // Af stands aside
	s.joins("g", "2")
	s.joins("h", "waits")
	oldest("Af")
	s.requeue("Ac", "Ac")
	oldest("Af")
	s.out(1, false)
	s.requeue("Ac", "")
	oldest("Ac") // again: it joined before all others
}

// The queue knows nothing of Caddy, sockets or clocks, and so has no reason to import
// more than this.
func TestImports(t *testing.T) {
	var imports []*ast.ImportSpec
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		if len(file.Imports) == 0 {
			t.Fatalf("found no imports in %s, expected some: was it parsed?", name)
		}
		imports = append(imports, file.Imports...)
	}
	for _, i := range imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains([]string{"cmp", "errors", "slices", "sync", "time"}, path) {
			t.Errorf("found import %q, expected cmp, errors, slices, sync and time only", path)
		}
	}
}

// To get a slot, to hand it on and to leave costs no memory beyond the waiter.
func TestAllocatesNothing(t *testing.T) {
	now := time.Now()
	places := make([]Waiter, 4)
	for _, c := range []struct {
		name string
		run  func(q *Queue)
	}{
		{"uncontended", func(q *Queue) {
			_, _ = q.Join(&places[0], now)
			q.Release(&places[0], now)
		}},
		{"hand-off", func(q *Queue) {
			for i := range places {
				_, _ = q.Join(&places[i], now)
			}
			for p := &places[0]; p != nil; p = q.Release(p, now) {
			}
		}},
		{"hand-off between priorities", func(q *Queue) {
			for i := range places {
				places[i].Priority = i % 3
				_, _ = q.Join(&places[i], now)
			}
			for p := &places[0]; p != nil; p = q.Release(p, now) {
			}
		}},
		{"requeue", func(q *Queue) {
			for i := range places {
				_, _ = q.Join(&places[i], now)
			}
			q.Out(1)
			q.Requeue(&places[0], now, 0)
			for p := q.In(1, now); p != nil; p = q.Release(p, now) {
			}
		}},
		{"leave", func(q *Queue) {
			for i := range places {
				_, _ = q.Join(&places[i], now)
			}
			q.Leave(&places[2])
			q.Leave(&places[1])
			q.Leave(&places[3])
			q.Release(&places[0], now)
		}},
	} {
		q := New(Bounds{Limit: 1, MaxWaiting: Unlimited})
		if allocs := testing.AllocsPerRun(100, func() {
			clear(places)
			c.run(q)
		}); allocs != 0 {
			t.Errorf("%s: found %v allocations, expected none", c.name, allocs)
		}
		if s := q.Stats(); s.Held > 0 || s.Waiting > 0 || s.Total.Granted == 0 {
			t.Errorf("%s: found %+v, expected all served and gone", c.name, s)
		}
	}
}

// A reload sets the bounds that a queue has. It sorts no line and counts no client anew.
func TestSetSameBounds(t *testing.T) {
	b, now := Bounds{Limit: 1, MaxWaiting: Unlimited, PerClient: 1, WaitingPerClient: 9}, time.Now()
	q := New(b)
	for i := range 100 {
		_, _ = q.Join(&Waiter{Client: ClientKey(i + 1)}, now)
	}
	if allocs := testing.AllocsPerRun(100, func() { q.Set(b, now) }); allocs != 0 {
		t.Errorf("found %v allocations, expected none", allocs)
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A waiter that joins just after the clock was read for its grant has not waited for less than no time.
func TestWaitedNeverNegative(t *testing.T) {
	q, now := New(Bounds{Limit: 1, MaxWaiting: Unlimited}), time.Now()
	a, b := new(Waiter), new(Waiter)
	_, _ = q.Join(a, now)
	_, _ = q.Join(b, now.Add(time.Second))
	if q.Release(a, now); b.Waited != 0 {
		t.Errorf("found %s, expected 0", b.Waited)
	}
}
