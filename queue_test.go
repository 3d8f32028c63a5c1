package tcplock

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Those who come while all slots are taken are served in the order they came in,
// whichever slot comes free.
func TestQueueIsFIFO(t *testing.T) {
	s := newScript(t, 2, unlimited)
	s.joins("a b", "1")
	s.joins("c d e f", "waits")
	s.release("b", "c")
	s.release("a", "d")
	s.release("d", "e")
	s.state("e1 c2", "f")
	s.release("c", "f")
	s.release("e", "")
	s.release("f", "")
	s.state("", "")
	s.joins("g h", "1")
}

// A slot that is handed on belongs to the next in line before anybody has been told:
// whoever comes in that moment stands behind.
func TestQueueNewcomerCannotOvertake(t *testing.T) {
	s := newScript(t, 1, unlimited)
	s.joins("a", "1")
	s.joins("b", "waits")
	woken := s.q.Release(s.place("a"), s.now)
	s.joins("newcomer", "waits") // b has not been woken yet
	s.expect("release a", "b", woken)
	s.state("b1", "newcomer")
	s.leave("newcomer", true)
	s.joins("another", "waits")
	s.release("b", "another")
}

// A line of max_waiting refuses who comes on top; 0 means no line at all; somebody who
// leaves makes room for one.
func TestQueueRefusesWhenFull(t *testing.T) {
	s := newScript(t, 1, 2)
	s.joins("a", "1")
	s.joins("b c", "waits")
	s.joins("d e", errFull.Error())
	s.state("a1", "b c")
	s.leave("b", true)
	s.joins("f", "waits")
	s.joins("g", errFull.Error())
	s.leave("g", false)
	s.release("a", "c")
	s.joins("h", "waits")

	s = newScript(t, 1, 0)
	s.joins("a", "1")
	s.joins("b", errFull.Error())
	s.release("a", "")
	s.joins("c", "1")

	s = newScript(t, 0, 1) // no slots yet: the line is open all the same
	s.joins("a", "waits")
	s.joins("b", errFull.Error())
	s.seize("c", false)
	s.resize(1, 1, "a")
}

// One may leave from the head, the middle and the end of the line, and the last one
// too: the others keep their order. Who is not in line cannot leave it.
func TestQueueLeave(t *testing.T) {
	s := newScript(t, 1, unlimited)
	s.leave("stranger", false)
	s.joins("a", "1")
	s.joins("b c d e f", "waits")
	s.leave("d", true)
	s.leave("b", true)
	s.leave("f", true)
	s.leave("d", false)
	s.state("a1", "c e")
	s.joins("g", "waits")
	s.release("a", "c")
	s.leave("a", false)
	s.leave("e", true)
	s.leave("g", true)
	s.state("c1", "")
	s.joins("h", "waits")
	s.release("c", "h")
}

// Who wants to leave and is granted a slot in the same instant has lost: it holds the
// slot, and giving it back hands it on.
func TestQueueLeaveLosesAgainstGrant(t *testing.T) {
	s := newScript(t, 1, unlimited)
	s.joins("a", "1")
	s.joins("b c", "waits")
	s.release("a", "b")
	s.leave("b", false)
	if slot := s.slot("b"); slot != 1 {
		t.Fatalf("found slot %d, expected 1", slot)
	}
	s.release("b", "c")
	if slot := s.slot("b"); slot != 0 {
		t.Fatalf("found slot %d after the release, expected 0", slot)
	}
}

// A move that a place's state does not allow is a bug that would hand out a slot which
// does not exist. It panics, says why, and leaves the queue as it was and usable.
func TestQueueMisusePanics(t *testing.T) {
	for _, c := range []struct {
		name, want string
		move       func(*script)
	}{
		{"release twice", "is gone, expected holding", func(s *script) { s.release("gone", "") }},
		{"release in line", "is waiting, expected holding", func(s *script) { s.release("w", "") }},
		{"release never joined", "is new, expected holding", func(s *script) { s.release("new", "") }},
		{"release refused", "is gone, expected holding", func(s *script) { s.release("refused", "") }},
		{"release while it wants to be alone", "is secluding, expected holding", func(s *script) { s.release("x", "") }},
		{"join as holder", "is holding, expected new", func(s *script) { s.joins("h", "waits") }},
		{"join in line", "is waiting, expected new", func(s *script) { s.joins("w", "waits") }},
		{"join again", "is gone, expected new", func(s *script) { s.joins("gone", "waits") }},
		{"seize in line", "is waiting, expected new", func(s *script) { s.seize("w", true) }},
		{"seclude in line", "is waiting, expected holding", func(s *script) { s.seclude("w", "") }},
		{"seclude twice", "is secluding, expected holding", func(s *script) { s.seclude("x", "") }},
		{"include without a wish", "is holding, expected secluding", func(s *script) { s.include("h", "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t, 3, 1)
			s.joins("gone h x", "1")
			s.release("gone", "")
			s.seclude("x", "")
			s.joins("w", "waits")
			s.joins("refused", errFull.Error())
			func() {
				defer func() {
					if got := fmt.Sprint(recover()); !strings.HasSuffix(got, c.want) {
						t.Fatalf("found %q, expected a panic that ends in %q", got, c.want)
					}
				}()
				c.move(s)
			}()
			s.state("h2 x3", "w")
			s.release("h", "x")
			s.include("x", "w")
			s.release("x", "")
			s.release("w", "")
		})
	}
}

// A raised limit admits as many as there are new slots, at once and in order.
func TestQueueResizeUp(t *testing.T) {
	s := newScript(t, 1, unlimited)
	s.joins("a", "1")
	s.joins("b c d", "waits")
	s.resize(1, unlimited, "")
	s.resize(3, unlimited, "b c")
	s.state("a1 b2 c3", "d")
	s.resize(10, unlimited, "d")
	s.joins("e", "5")
}

// A lowered limit sends no holder away, and admits nobody until there are fewer
// holders than the new limit. Slots above it are not handed out again.
func TestQueueResizeDown(t *testing.T) {
	s := newScript(t, 4, unlimited)
	s.joins("a b c d", "1")
	s.joins("e f", "waits")
	s.resize(2, unlimited, "")
	s.state("a1 b2 c3 d4", "e f")
	s.release("a", "") // three left for two slots
	s.release("c", "") // two left
	s.release("d", "e")
	s.state("e1 b2", "f")
	s.release("b", "f")
	s.state("e1 f2", "")

	// Down to none and up again.
	s.joins("g", "waits")
	s.resize(0, unlimited, "")
	s.release("e", "")
	s.release("f", "")
	s.state("", "g")
	s.resize(1, unlimited, "g")
	s.state("g1", "")
}

// A limit that goes up again while a holder sits above where it was: that slot is still
// taken, and comes back to the others when it is released.
func TestQueueResizeDownAndUp(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a b c", "1")
	s.resize(1, unlimited, "")
	s.release("b", "")
	s.joins("d e f", "waits")
	s.resize(3, unlimited, "d")
	s.state("a1 d2 c3", "e f")
	s.release("c", "e")
	s.state("a1 d2 e3", "f")
}

// A shorter line sends nobody away; it refuses who comes until it has become shorter
// by itself. A longer one takes them again.
func TestQueueResizeLine(t *testing.T) {
	s := newScript(t, 1, unlimited)
	s.joins("a", "1")
	s.joins("b c d", "waits")
	s.resize(1, 2, "")
	s.state("a1", "b c d")
	s.joins("e", errFull.Error())
	s.release("a", "b")
	s.joins("f", errFull.Error())
	s.release("b", "c")
	s.joins("g", "waits")
	s.resize(1, 3, "")
	s.joins("h", "waits")
	s.resize(1, 0, "")
	s.joins("i", errFull.Error())
	s.state("c1", "d g h")
}

// Slots count from 1. Of several free ones the one that has been free longest is
// taken, so that all take turns; a resize does not disturb that, new ones come last.
func TestQueueSlotsTakeTurns(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a", "1")
	s.release("a", "")
	s.joins("b", "2")
	s.joins("c", "3")
	s.joins("d", "1")
	s.release("c", "")
	s.release("b", "")
	s.release("d", "") // free: 3, 2, 1
	s.resize(3, unlimited, "")
	s.resize(4, unlimited, "") // 3, 2, 1, 4
	s.joins("e", "3")
	s.release("e", "")         // 2, 1, 4, 3
	s.resize(2, unlimited, "") // 2, 1
	s.joins("f", "2")
	s.resize(4, unlimited, "") // 1, 3, 4
	s.release("f", "")
	s.joins("g", "1")
	s.joins("h i", "3")
	s.joins("j", "2")
	s.state("g1 j2 h3 i4", "")
}

// A pause keeps the holders and lets the line grow up to its bound. Nobody is granted a
// slot, whichever way one comes free, until it ends; then all that can be.
func TestQueuePause(t *testing.T) {
	s := newScript(t, 2, 4)
	s.joins("a b", "1")
	s.pause()
	s.joins("c", "waits")
	s.release("a", "")
	s.joins("d", "waits")
	s.resize(3, 4, "")
	s.seclude("b", "b")
	s.include("b", "")
	s.leave("c", true)
	s.joins("e f g", "waits")
	s.joins("h", errFull.Error())
	if !s.q.Stats().Paused {
		t.Fatal("found no pause in the figures")
	}
	s.pause() // a second time changes nothing
	s.state("b2", "d e f g")
	s.resume("d e")
	s.state("d1 b2 e3", "f g")
	s.resume("")

	// A pause is for the idle, too.
	s = newScript(t, 1, unlimited)
	s.pause()
	s.seize("i", false)
	s.resume("")
	s.seize("i", true)
}

// A closed queue has turned away its line, in order, and refuses all who come, though
// slots be free. Holders stay; what they give back goes to nobody.
func TestQueueClose(t *testing.T) {
	s := newScript(t, 2, unlimited)
	s.joins("a b", "1")
	s.joins("c d e", "waits")
	s.leave("d", true)
	s.close("c e")
	s.state("a1 b2", "")
	s.leave("c", false)
	s.release("a", "")
	s.joins("f", errClosed.Error())
	s.resize(5, unlimited, "")
	s.pause()
	s.resume("")
	s.joins("g", errClosed.Error())
	s.release("b", "")
	s.seize("h", false)
	s.close("")
	if got, want := s.q.Stats().Total, (totals{Joined: 7, Refused: 4, Left: 1, Granted: 2}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
}

// Quiet tells when nobody holds or waits: at once if so, else when the last of them has
// gone, whichever way.
func TestQueueQuiet(t *testing.T) {
	quiet := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	ended := func(c <-chan struct{}, want bool) {
		t.Helper()
		if quiet(c) != want {
			t.Fatalf("found quiet %t, expected %t", !want, want)
		}
	}

	s := newScript(t, 1, unlimited)
	ended(s.q.Quiet(), true)
	s.joins("a", "1")
	s.joins("b", "waits")
	first, second := s.q.Quiet(), s.q.Quiet()
	s.release("a", "b")
	ended(first, false)
	s.release("b", "")
	ended(first, true)
	ended(second, true)

	s.joins("c", "1") // what was quiet once stays so; ask again to hear of the next time
	ended(first, true)
	third := s.q.Quiet()
	ended(third, false)
	s.joins("d e", "waits")
	s.pause()
	s.release("c", "")
	s.leave("d", true)
	ended(third, false)
	s.leave("e", true)
	ended(third, true)

	s.joins("f", "waits")
	fourth := s.q.Quiet()
	s.close("f")
	ended(fourth, true)

	s = newScript(t, 1, unlimited)
	s.seize("i", true)
	fifth := s.q.Quiet()
	s.include("i", "")
	ended(fifth, false)
	s.release("i", "")
	ended(fifth, true)
}

// Stats and Snapshot tell of one instant, and what they give is the caller's own.
func TestQueueStatsAndSnapshot(t *testing.T) {
	s := newScript(t, 2, 2)
	if got, want := s.q.Stats(), (queueStats{Slots: 2}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
	s.joins("a b", "1")           // at 0 s and 1 s
	s.joins("c d", "waits")       // at 2 s and 3 s
	s.joins("e", errFull.Error()) // at 4 s
	s.leave("d", true)            // at 5 s
	s.joins("f", "waits")         // at 6 s
	s.release("a", "c")           // at 7 s
	stats, holders, waiters := s.q.Snapshot()
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	want := queueStats{
		Slots: 2, Held: 2, Waiting: 1, Oldest: at(6),
		Total: totals{Joined: 6, Refused: 1, Left: 1, Granted: 3},
	}
	if stats != want || s.q.Stats() != want {
		t.Fatalf("found %+v and %+v, expected %+v", stats, s.q.Stats(), want)
	}
	for i := range waiters {
		waiters[i].prev, waiters[i].next = nil, nil
	}
	if want := []place{
		{owner: "c", state: placeHolding, slot: 1, number: 3, joined: at(2), waited: 5 * time.Second},
		{owner: "b", state: placeHolding, slot: 2, number: 2, joined: at(1)},
	}; !slices.Equal(holders, want) {
		t.Fatalf("found holders %+v, expected %+v", holders, want)
	}
	if want := []place{
		{owner: "f", state: placeWaiting, ahead: 1, joined: at(6)},
	}; !slices.Equal(waiters, want) {
		t.Fatalf("found waiters %+v, expected %+v", waiters, want)
	}
	if holders[0] != s.q.Look(s.place("c")) {
		t.Fatalf("found %+v, expected what the snapshot shows", s.q.Look(s.place("c")))
	}
	holders[0].slot, waiters[0].state = 7, placeGone
	s.state("c1 b2", "f")
}

// The queue knows nothing of Caddy, sockets or clocks, and so has no reason to import
// more than this.
func TestQueueImports(t *testing.T) {
	var imports []*ast.ImportSpec
	for _, name := range []string{"queue.go", "queue_stats.go"} {
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
		if !slices.Contains([]string{"errors", "slices", "sync", "time"}, path) {
			t.Errorf("found import %q, expected errors, slices, sync and time only", path)
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
		q := newQueue(1, unlimited)
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
