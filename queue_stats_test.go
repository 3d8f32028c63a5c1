package tcplock

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
	"time"
)

// Vacant tells when nobody holds a slot or wants to be alone: at once if so, else when the
// last of them has gone, whichever way, and whoever waits.
func TestQueueVacant(t *testing.T) {
	told := func(c <-chan struct{}, want bool) {
		t.Helper()
		if isDone(c) != want {
			t.Fatalf("found vacant %t, expected %t", !want, want)
		}
	}

	s := newScript(t, 1, unlimited)
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

	s = newScript(t, 1, unlimited)
	s.seize("i", true)
	s.joins("a", "waits")
	fifth := s.q.Vacant()
	told(fifth, false)
	s.pause()
	s.include("i", "")
	told(fifth, true)
}

// Stats and Snapshot tell of one instant, and what they give is the caller's own.
func TestQueueStatsAndSnapshot(t *testing.T) {
	s := newScript(t, 2, 2)
	if got, want := s.q.Stats(), (queueStats{}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
	s.joins("a b", "1")           // at 0 s and 1 s
	s.joins("Cc", "waits")        // at 2 s
	s.joinsAs(7, "d", "waits")    // at 3 s
	s.joins("e", errFull.Error()) // at 4 s
	s.leave("d", true)            // at 5 s
	s.joinsAs(-1, "f", "waits")   // at 6 s
	s.release("a", "Cc")          // at 7 s
	stats, holders, waiters := s.q.Snapshot(unlimitedView)
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	want := queueStats{
		Held: 2, Waiting: 1, Oldest: at(6),
		Total: totals{Joined: 6, Refused: 1, Left: 1, Granted: 3},
	}
	if stats != want || s.q.Stats() != want {
		t.Fatalf("found %+v and %+v, expected %+v", stats, s.q.Stats(), want)
	}
	for _, p := range []*place{&holders[0], &holders[1], &waiters[0]} {
		*p = shown(*p)
	}
	if want := []place{
		{owner: "Cc", client: 'C', state: placeHolding, slot: 1, number: 3, joined: at(2), waited: 5 * time.Second},
		{owner: "b", state: placeHolding, slot: 2, number: 2, joined: at(1)},
	}; !slices.Equal(holders, want) {
		t.Fatalf("found holders %+v, expected %+v", holders, want)
	}
	if want := []place{
		{owner: "f", priority: -1, state: placeWaiting, ahead: 1, joined: at(6)},
	}; !slices.Equal(waiters, want) {
		t.Fatalf("found waiters %+v, expected %+v", waiters, want)
	}
	if holders[0] != shown(s.q.Look(s.place("Cc"))) {
		t.Fatalf("found %+v, expected what the snapshot shows", s.q.Look(s.place("Cc")))
	}
	holders[0].slot, waiters[0].state = 7, placeGone
	s.state("Cc1 b2", "f")
}

// Who waits longest need not be the one who goes first: it may have a low priority, or
// stand aside.
func TestQueueStatsOldest(t *testing.T) {
	s := newBoundScript(t, bounds{limit: 1, maxWaiting: unlimited, perClient: 1})
	oldest := func(name string) {
		t.Helper()
		want := time.Time{}
		if name != "" {
			want = s.q.Look(s.place(name)).joined
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
	s.set(bounds{limit: 2, maxWaiting: unlimited, perClient: 1}, "d")
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
func TestQueueImports(t *testing.T) {
	var imports []*ast.ImportSpec
	for _, name := range []string{"queue.go", "queue_line.go", "queue_seclude.go", "queue_slots.go", "queue_stats.go"} {
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

// Getting, handing on and leaving cost no memory beyond the place that is brought.
func TestQueueAllocatesNothing(t *testing.T) {
	now := time.Now()
	places := make([]place, 4)
	for _, c := range []struct {
		name string
		run  func(q *queue)
	}{
		{"uncontended", func(q *queue) {
			_, _ = q.Join(&places[0], now)
			q.Release(&places[0], now)
		}},
		{"hand-off", func(q *queue) {
			for i := range places {
				_, _ = q.Join(&places[i], now)
			}
			for p := &places[0]; p != nil; p = q.Release(p, now) {
			}
		}},
		{"hand-off between priorities", func(q *queue) {
			for i := range places {
				places[i].priority = i % 3
				_, _ = q.Join(&places[i], now)
			}
			for p := &places[0]; p != nil; p = q.Release(p, now) {
			}
		}},
		{"requeue", func(q *queue) {
			for i := range places {
				_, _ = q.Join(&places[i], now)
			}
			q.Out(1)
			q.Requeue(&places[0], now, 0)
			for p := q.In(1, now); p != nil; p = q.Release(p, now) {
			}
		}},
		{"leave", func(q *queue) {
			for i := range places {
				_, _ = q.Join(&places[i], now)
			}
			q.Leave(&places[2])
			q.Leave(&places[1])
			q.Leave(&places[3])
			q.Release(&places[0], now)
		}},
	} {
		q := newQueue(bounds{limit: 1, maxWaiting: unlimited})
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
func TestQueueSetSameBounds(t *testing.T) {
	b, now := bounds{limit: 1, maxWaiting: unlimited, perClient: 1, waitingPerClient: 9}, time.Now()
	q := newQueue(b)
	for i := range 100 {
		_, _ = q.Join(&place{client: clientKey(i + 1)}, now)
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

// Who came just after the clock was read for the grant has not waited for less than no time.
func TestQueueWaitedNeverNegative(t *testing.T) {
	q, now := newQueue(bounds{limit: 1, maxWaiting: unlimited}), time.Now()
	a, b := new(place), new(place)
	_, _ = q.Join(a, now)
	_, _ = q.Join(b, now.Add(time.Second))
	if q.Release(a, now); b.waited != 0 {
		t.Errorf("found %s, expected 0", b.waited)
	}
}
