package queue

import (
	"testing"
	"time"
)

// Higher priorities go first. Within one priority, the order is that of joining. A waiter that
// comes or leaves changes nothing for the others, and no holder is disturbed.
func TestPriority(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joinsAs(-5, "h", "1")
	s.joins("a b", "waits")
	s.joinsAs(-1, "c", "waits")
	s.joinsAs(2, "d e", "waits")
	s.joins("f", "waits")
	s.joinsAs(1, "g", "waits")
	s.joinsAs(2, "i", "waits")
	s.state("h1", "d e i g a b f c")
	s.leave("e", true)
	s.leave("a", true)
	s.release("h", "d")
	s.joinsAs(2, "j", "waits")
	s.release("d", "i")
	s.release("i", "j")
	s.release("j", "g")
	s.resize(2, Unlimited, "b")
	s.joinsAs(9, "k", "waits")
	s.state("g1 b2", "k f c")
	s.release("b", "k")
	s.release("g", "f")
	s.release("k", "c")
}

// Close turns waiters away in the order of the line, so a waiter that joined first may be last. The
// bound of the line holds for all priorities together.
func TestPriorityBoundsAndClose(t *testing.T) {
	s := newScript(t, 1, 3)
	s.joins("h", "1")
	s.joins("a", "waits")
	s.joinsAs(1, "b c", "waits")
	s.joinsAs(7, "d", ErrFull.Error())
	s.close("b c a")
}

// With a priority age of 10 seconds, priority 1 goes before waiters with 0 that came up to 10
// seconds earlier, and at equal ranks it goes first too.
func TestPriorityAge(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 1, MaxWaiting: Unlimited, PriorityAge: 10 * time.Second})
	at := func(second int64) { s.now = time.Unix(second, 0) }
	s.joins("h", "1")
	at(100)
	s.joins("a", "waits")
	at(101)
	s.joins("b", "waits")
	at(110)
	s.joinsAs(1, "c", "waits") // as if at 100, just like a
	at(111)
	s.joinsAs(1, "d", "waits") // as if at 101, just like b
	at(121)
	s.joinsAs(2, "e", "waits") // as if at 101
	at(121)
	s.joinsAs(1, "f", "waits") // as if at 111
	at(122)
	s.joinsAs(-1, "g", "waits") // as if at 132
	at(131)
	s.joins("i", "waits")
	at(133)
	s.joins("j", "waits")
	at(1000) // the time has no bearing on the order
	s.state("h1", "c a e d b f i g j")
	s.release("h", "c")
	s.release("c", "a")
	s.release("a", "e")
	s.release("e", "d")
	s.release("d", "b")
	s.release("b", "f")
	s.release("f", "i")
	s.release("i", "g")
	s.release("g", "j")
}

// While waiters with a high priority keep coming, a waiter with a low priority waits for ever
// without a priority age. With one, it waits as long as the age says, and no longer.
func TestNoWaiterStarves(t *testing.T) {
	for _, c := range []struct {
		age, want time.Duration
	}{
		{0, 0},                           // not in 1000 seconds
		{time.Second, 5 * time.Second},   // waiters that came up to 3 seconds after it go first,
		{time.Minute, 182 * time.Second}, // or 180 seconds; and so do those that came with it
		{5 * time.Minute, 902 * time.Second},
	} {
		q, now := New(Bounds{Limit: 1, MaxWaiting: Unlimited, PriorityAge: c.age}), time.Unix(0, 0)
		holder, low := new(Waiter), new(Waiter)
		_, _ = q.Join(holder, now)
		_, _ = q.Join(low, now)
		for end := now.Add(1000 * time.Second); now.Before(end) && holder != low; {
			_, _ = q.Join(&Waiter{Priority: 3}, now)
			now = now.Add(time.Second)
			holder = q.Release(holder, now)
		}
		if got := q.Load(low).Waited; got != c.want {
			t.Errorf("age %s: found a wait of %s, expected %s", c.age, got, c.want)
		}
	}
}

// A new priority age holds for the waiters that are in line already, too.
func TestPriorityAgeChanges(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joins("h", "1")
	s.joins("a", "waits")
	s.joinsAs(3, "b", "waits")
	s.joinsAs(1, "c", "waits") // 2 seconds after a
	age := func(age time.Duration, line string) {
		t.Helper()
		s.set(Bounds{Limit: 1, MaxWaiting: Unlimited, PriorityAge: age}, "")
		s.state("h1", line)
	}
	age(0, "b c a")
	age(time.Second, "b a c")
	age(2*time.Second, "b c a")
	age(time.Millisecond, "a b c")
	age(time.Second, "b a c")
	s.release("h", "b")
	s.release("b", "a")
}

// A waiter whose client holds as many slots as it may stands aside when its turn comes. Waiters
// behind it go on, and a slot stays free if there are none. When a holder of its client is done, it
// goes on, before all that came after it.
func TestStandsAside(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 3, MaxWaiting: Unlimited, PerClient: 1})
	s.joins("Aa", "1")
	s.joins("Ab Ac", "waits") // though two slots are free
	s.joins("Ba", "2")
	s.joins("Bb", "waits")
	s.joins("x", "3") // no client: no bound
	s.joins("Ad y Bc z Ca", "waits")
	s.state("Aa1 Ba2 x3", "Ab Ac Bb Ad y Bc z Ca")
	s.release("x", "y") // the first in line that may
	s.release("Aa", "Ab")
	s.release("y", "z")
	s.release("z", "Ca")
	s.release("Ca", "")
	s.state("Ab1 Ba2", "Ac Bb Ad Bc")
	s.joins("Da", "3")
	s.release("Ba", "Bb")
	s.release("Ab", "Ac")
	s.release("Da", "")
	s.release("Ac", "Ad")
	s.release("Bb", "Bc")
	s.state("Bc1 Ad3", "")
}

// No waiter stands aside before its turn. So a waiter that comes back has been the first in line
// once, and finds its place near the front, whatever the length of the line.
func TestStandsAsideInTurn(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 1, MaxWaiting: Unlimited, PerClient: 1})
	aside := func(want *Waiter) {
		t.Helper()
		if got := s.waiter("Aa").from.aside.first(0); got != want {
			t.Fatalf("found %+v aside, expected %+v", got, want)
		}
	}
	s.joins("Aa", "1")
	s.joins("x Ab y", "waits")
	aside(nil)
	s.set(Bounds{Limit: 2, MaxWaiting: Unlimited, PerClient: 1}, "x")
	aside(nil)
	s.release("x", "y")
	aside(s.waiter("Ab"))
	s.release("Aa", "Ab")
}

// For each slot that a client releases, one of its waiters that stand aside comes back: the first
// in order, priority and age included.
func TestAsideInOrder(t *testing.T) {
	b := Bounds{Limit: 4, MaxWaiting: Unlimited, PerClient: 2}
	s := newBoundScript(t, b)
	s.joins("Aa Ab", "1")
	s.joins("Ac Ad", "waits")
	s.joinsAs(1, "Ae", "waits")
	s.joins("Ba", "3")
	s.state("Aa1 Ab2 Ba3", "Ae Ac Ad")
	s.release("Aa", "Ae")
	s.release("Ab", "Ac")
	s.joinsAs(1, "Af", "waits") // at 8 s, Ad at 3 s
	s.state("Ac1 Ba3 Ae4", "Af Ad")
	b.PriorityAge = 4 * time.Second
	s.set(b, "")
	s.state("Ac1 Ba3 Ae4", "Ad Af")
	s.release("Ae", "Ad")
	s.release("Ac", "Af")
}

// A waiter that leaves the line makes room for another of its client, while there is no slot and
// when there is one again.
func TestLeaveBringsBack(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 2, MaxWaiting: Unlimited, PerClient: 1})
	s.joins("Aa", "1")
	s.joins("Ab Ac Ad", "waits") // aside
	s.joins("x", "2")
	s.joins("y", "waits")
	s.pause()
	s.release("Aa", "") // Ab comes back
	s.leave("Ab", true)
	s.leave("Ac", true)
	s.state("x2", "Ad y")
	s.resume("Ad")
	s.state("Ad1 x2", "y")
	s.joins("Ae Af", "waits")
	s.leave("Ae", true) // while its client has its share
	s.release("Ad", "y")
	s.release("x", "Af")
}

// The number of waiters of one client has a bound of its own, for those aside and in line, not for
// the holders. A refused client takes nothing from the others.
func TestWaitingPerClient(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 2, MaxWaiting: 5, WaitingPerClient: 2, PerClient: 1})
	s.joins("Aa", "1")
	s.joins("Ab Ac", "waits")
	s.joins("Ad", ErrClientFull.Error())
	s.joins("Ba", "2")
	s.joins("x y z", "waits") // no client: no bound
	s.joins("Bb", ErrFull.Error())
	s.leave("x", true)
	s.joins("Ae", ErrClientFull.Error())
	s.joins("Bc", "waits")
	s.joins("Bd Af", ErrFull.Error())
	s.leave("Ab", true)
	s.joins("Ag", "waits")
}

// The bounds of each client may change at any time. Waiters and holders that are there are counted,
// a higher bound admits at once, and a lower one sends no waiter away.
func TestClientBoundsChange(t *testing.T) {
	b := Bounds{Limit: 4, MaxWaiting: Unlimited}
	s := newBoundScript(t, b)
	s.joins("Aa Ab Ac", "1")
	b.PerClient = 2
	s.set(b, "")
	s.joins("Ad Ae", "waits")
	s.joins("Ba", "4")
	s.release("Aa", "") // two left for two
	s.release("Ab", "Ad")
	s.joins("Af", "waits")
	s.state("Ad1 Ac3 Ba4", "Ae Af")
	b.WaitingPerClient = 1
	s.set(b, "")
	s.joins("Ag", ErrClientFull.Error())
	b.PerClient = 3
	s.set(b, "Ae")
	s.joins("Ah", ErrClientFull.Error())
	s.joins("Bb", "waits")
	s.state("Ad1 Ae2 Ac3 Ba4", "Af Bb")
	b.Limit = 5
	s.set(b, "Bb")
	b.Limit, b.PerClient = 6, 0
	s.set(b, "Af")
	s.joins("Ai", "waits")
	s.joins("Ak", ErrClientFull.Error())
	b.WaitingPerClient = 0
	s.set(b, "")
	s.joins("Aj", "waits")
	s.state("Ad1 Ae2 Ac3 Ba4 Bb5 Af6", "Ai Aj")
}

// When the last waiter of a client is gone, in any way, the queue keeps nothing of the client.
func TestForgetsClients(t *testing.T) {
	for _, c := range []struct {
		name  string
		visit func(s *script)
	}{
		{"release", func(s *script) {
			s.joins("A", "2")
			s.release("A", "")
		}},
		{"release after standing aside", func(s *script) {
			s.joins("Aa", "2")
			s.joins("Ab", "waits")
			s.release("Aa", "Ab")
			s.release("Ab", "")
		}},
		{"leave", func(s *script) {
			s.pause()
			s.joins("A", "waits")
			s.leave("A", true)
		}},
		{"leave from aside", func(s *script) {
			s.joins("Aa", "2")
			s.joins("Ab", "waits")
			s.release("Aa", "Ab")
			s.joins("Ac", "waits")
			s.leave("Ac", true)
			s.release("Ab", "")
		}},
		{"refused for its own sake", func(s *script) {
			s.joins("Aa", "2")
			s.joins("Ab", "waits")
			s.joins("Ac", ErrClientFull.Error())
			s.leave("Ab", true)
			s.release("Aa", "")
		}},
		{"refused for all", func(s *script) {
			s.pause()
			s.joins("a b", "waits")
			s.joins("A", ErrFullPaused.Error())
			s.leave("a", true)
			s.leave("b", true)
		}},
		{"turned away", func(s *script) {
			s.pause()
			s.joins("A", "waits")
			s.close("A")
			s.joins("B", ErrClosed.Error())
		}},
		{"requeue", func(s *script) {
			s.joins("A", "2")
			s.requeue("A", "A")
			s.release("A", "")
		}},
		{"requeue when closed", func(s *script) {
			s.joins("A", "2")
			s.close("")
			s.requeue("A", "")
		}},
		{"bounds given up", func(s *script) {
			s.joins("Aa", "2")
			s.joins("Ab", "waits")
			s.resize(3, 2, "Ab")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newBoundScript(t, Bounds{Limit: 3, MaxWaiting: 2, PerClient: 1, WaitingPerClient: 1})
			s.joins("Z", "1")
			c.visit(s)
			s.release("Z", "")
			if n := len(s.q.clients); n != 0 {
				t.Fatalf("found %d clients, expected none", n)
			}
		})
	}
}

// Clients that come and go, a new one each time, leave nothing behind and cost no memory.
func TestClientsCostNothing(t *testing.T) {
	q, p, client := New(Bounds{Limit: 1, MaxWaiting: Unlimited, PerClient: 1}), new(Waiter), ClientKey(0)
	allocs := testing.AllocsPerRun(1000, func() {
		client++
		*p = Waiter{Client: client}
		if holds, err := q.Join(p, time.Time{}); !holds {
			t.Fatal(err)
		}
		q.Release(p, time.Time{})
	})
	if allocs != 0 || len(q.clients) != 0 {
		t.Errorf("found %v allocations each and %d clients left, expected 0", allocs, len(q.clients))
	}
}
