package queue

import (
	"testing"
	"time"
)

// A slot out of service is not granted: neither while it is free, nor when its holder has gone.
// When it is back in service, it goes to the first in line at once, or behind the other free slots.
func TestOut(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a", "1")
	s.out(2, true)
	s.out(1, false)
	s.out(1, false) // a second time changes nothing
	s.state("a1", "")
	s.joins("b", "3")
	s.joins("c d e", "waits")
	s.release("a", "")
	s.state("b3", "c d e")
	s.release("b", "c")
	s.in(1, "d")
	s.in(1, "") // is in service
	s.in(2, "e")
	s.state("d1 e2 c3", "")

	s.release("c", "")
	s.release("d", "")
	s.out(3, true)
	s.release("e", "") // free: 1, 2
	s.in(3, "")        // 1, 2, 3
	s.in(3, "")
	s.out(1, true)
	s.in(1, "") // 2, 3, 1
	s.joins("f g", "2")
	s.joins("h", "1")
}

// A slot that is taken out and put back while it is held stays with its holder, and is granted
// again when that is done.
func TestOutAndInWhileHeld(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joins("a", "1")
	s.joins("b", "waits")
	s.out(1, false)
	s.in(1, "")
	s.state("a1", "b")
	s.release("a", "b")
	s.release("b", "")
	s.joins("c", "1")
}

// With all slots out of service, the line waits, in order and within its bounds, and so does a
// waiter that joins an idle lock. Exclusive access needs no slot.
func TestAllOut(t *testing.T) {
	s := newScript(t, 2, 2)
	s.out(1, true)
	s.out(2, true)
	s.tryExclusive("idle", true)
	s.endExclusive("idle", "")
	s.joins("a b", "waits")
	s.tryExclusive("i", false)
	s.joins("c", ErrFull.Error())
	s.leave("a", true)
	s.joins("d", "waits")
	s.in(2, "b")
	s.release("b", "d")
	s.release("d", "")
	s.tryExclusive("i", true)
	s.exclusive("i")
}

// Out of service and above the limit are two reasons not to be granted, and each may end
// before the other. A slot that does not exist yet may be taken out for when it does.
func TestOutAndLimit(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.out(5, true)
	s.out(3, true)
	s.joins("a b", "1")
	s.joins("c", "waits")
	s.resize(2, Unlimited, "")
	s.in(3, "") // still above the limit
	s.joins("d e", "waits")
	s.resize(5, Unlimited, "c d") // 3 and 4
	s.state("a1 b2 c3 d4", "e")
	s.resize(6, Unlimited, "e")
	s.state("a1 b2 c3 d4 e6", "")
	s.in(5, "")

	// A holder above a lowered limit counts, so a slot that comes back waits for it.
	s = newScript(t, 3, Unlimited)
	s.out(1, true)
	s.joins("a b", "2")
	s.joins("c", "waits")
	s.resize(2, Unlimited, "")
	s.in(1, "")
	s.state("a2 b3", "c")
	s.release("b", "c")
	s.state("c1 a2", "")
	s.out(2, false)
	s.resize(1, Unlimited, "")
	s.release("a", "")
	s.resize(2, Unlimited, "")
	s.joins("d", "waits")
	s.in(2, "d")
}

// A pause, exclusive access and a closed queue keep a slot that comes back from
// being granted, like any other.
func TestInGrantsNotAlways(t *testing.T) {
	s := newScript(t, 2, Unlimited)
	s.out(2, true)
	s.joins("a", "1")
	s.joins("b", "waits")
	s.pause()
	s.in(2, "")
	s.resume("b")
	s.release("b", "")

	s.out(2, true)
	s.joins("c", "waits")
	s.beginExclusive("a", "a")
	s.in(2, "")
	s.state("a1", "c")
	s.out(1, false)
	s.joins("d", "waits")
	s.endExclusive("a", "c")
	s.state("a1 c2", "d")
	s.release("a", "") // 1 is out
	s.state("c2", "d")

	s.close("d")
	s.in(1, "")
	s.joins("e", ErrClosed.Error())
}

// A client at its share stands aside of a slot that comes back, too.
func TestInAndClients(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 2, MaxWaiting: Unlimited, PerClient: 1})
	s.out(2, true)
	s.joins("Aa", "1")
	s.joins("Ab b", "waits")
	s.in(2, "b")
	s.out(1, false)
	s.release("Aa", "")
	s.in(1, "Ab")
}

// A waiter that is put back in line stands where it stood: before all that came after it, behind all that
// came before it, whatever the order in which they come back.
func TestRequeue(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.joins("d e", "waits")
	for slot := 1; slot <= 3; slot++ {
		s.out(slot, false)
	}
	s.requeue("b", "")
	s.requeue("c", "")
	s.requeue("a", "")
	s.state("", "a b c d e")
	s.joins("f", "waits")
	s.in(3, "a")
	s.in(1, "b")
	s.leave("c", true)
	s.in(2, "d")
	s.state("b1 d2 a3", "e f")
	s.release("d", "e")

	// While the slot is in service it is granted at once, to the same waiter if none goes before
	// it.
	s.requeue("b", "b")
	s.state("b1 e2 a3", "f")
	s.out(3, false)
	s.requeue("a", "")
	s.requeue("e", "a")
	s.state("b1 a2", "e f")
}

// Priorities and ranks hold for a waiter that is put back as for all others.
func TestRequeuePriority(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joins("a", "1")
	s.joins("b", "waits")
	s.joinsAs(1, "c d", "waits")
	s.requeue("a", "c")
	s.state("c1", "d a b")
	s.requeue("c", "c")
	s.set(Bounds{Limit: 1, MaxWaiting: Unlimited, PriorityAge: time.Second}, "")
	s.requeue("c", "a") // a came 2 seconds earlier, b one: that is what c's priority makes up for
	s.state("a1", "c b d")
}

// A waiter is put back even if the line is full.
func TestRequeueWhenFull(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 2, MaxWaiting: 1, WaitingPerClient: 1})
	s.joins("Aa b", "1")
	s.joins("Ab", "waits")
	s.out(1, false)
	s.out(2, false)
	s.requeue("b", "")
	s.requeue("Aa", "")
	s.state("", "Aa b Ab")
	s.joins("c", ErrFull.Error())
	s.in(1, "Aa")
}

// Of a client at its share, one goes on for the one that is put back: that one, unless
// there is another with a higher priority.
func TestRequeueAndClients(t *testing.T) {
	s := newBoundScript(t, Bounds{Limit: 3, MaxWaiting: Unlimited, PerClient: 1})
	s.joins("Aa", "1")
	s.joins("Ab", "waits")
	s.joins("b", "2")
	s.requeue("Aa", "Aa")
	s.state("b2 Aa3", "Ab")
	s.joinsAs(1, "Ac", "waits")
	s.requeue("Aa", "Ac")
	s.state("Ac1 b2", "Aa Ab")
	s.release("Ac", "Aa")
	s.out(3, false)
	s.release("b", "")
	s.out(1, true)
	s.out(2, true)
	s.requeue("Aa", "")
	s.leave("Aa", true)
	s.in(1, "Ab")
}

// Once the queue is closed, a waiter is turned away instead of being put back. No other waiter gets
// what it held.
func TestRequeueWhenClosed(t *testing.T) {
	s := newScript(t, 2, Unlimited)
	s.joins("a b", "1")
	s.joins("c", "waits")
	s.close("c")
	vacant := s.q.Vacant()
	s.requeue("a", "")
	s.state("b2", "")
	if got := s.q.Load(s.waiter("a")); got.State != Gone || got.Slot != 0 {
		t.Fatalf("found %+v, expected it to be gone", got)
	}
	s.requeue("b", "")
	if !isDone(vacant) {
		t.Fatal("Vacant is open although all have gone")
	}
	if got, want := s.q.Stats().Total, (Totals{Joined: 3, Refused: 3}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
}

// A waiter that is put back does not wait for long beside one that asks for exclusive access: that
// one has one holder less to wait for. It goes on first when that one is done.
func TestRequeueAndExclusive(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.joins("d", "waits")
	s.beginExclusive("c", "")
	s.requeue("b", "")
	s.exclusive("")
	s.out(1, false)
	s.requeue("a", "c")
	s.exclusive("c")
	s.in(1, "")
	s.state("c3", "a b d")
	s.endExclusive("c", "a b")
	s.state("b1 a2 c3", "d")
	s.beginExclusive("c", "")
	s.beginExclusive("b", "")
	s.requeue("a", "c")
	s.exclusive("c")
	s.endExclusive("c", "b")
	s.requeue("c", "b")
	s.exclusive("b")
	s.endExclusive("b", "a c")
}

// One that is put back keeps when it joined. The time with a slot in vain counts as time
// in line, without the part that is set apart, and its grant counts once, the last one.
func TestRequeueFigures(t *testing.T) {
	q := New(Bounds{Limit: 1, MaxWaiting: Unlimited})
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	expect := func(p *Waiter, want Waiter) {
		t.Helper()
		if got := shown(q.Load(p)); got != want {
			t.Fatalf("found %+v, expected %+v", got, want)
		}
	}
	a, b := new(Waiter), new(Waiter)
	_, _ = q.Join(a, at(0))
	_, _ = q.Join(b, at(1))
	q.Release(a, at(10)) // b has waited for 9
	q.Out(1)
	q.Requeue(b, at(12), time.Second) // and held for 2
	expect(b, Waiter{State: Waiting, Number: 2, Joined: at(1), Waited: 9 * time.Second, Apart: time.Second})
	if got, want := q.Stats(), (Stats{Waiting: 1, Oldest: at(1), Total: Totals{Joined: 2, Granted: 1}}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
	q.In(1, at(15)) // waited for 3 more
	q.Requeue(b, at(20), 4*time.Second)
	expect(b, Waiter{State: Holding, Slot: 1, Number: 4, Joined: at(1), Waited: 15 * time.Second, Apart: 4 * time.Second})
	q.Release(b, at(30))
	if got, want := q.Stats(), (Stats{Total: Totals{Joined: 2, Granted: 2}}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
}
