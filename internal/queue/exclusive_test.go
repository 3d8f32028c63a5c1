package queue

import "testing"

// A holder gets exclusive access once the other holders have gone. No waiter is granted a slot
// meanwhile. When the access ends, all that can be admitted are, at once and in order.
func TestExclusive(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.beginExclusive("b", "")
	s.exclusive("")
	s.joins("d", "waits")
	s.release("a", "")
	s.joins("e", "waits")
	s.resize(4, Unlimited, "")
	s.pause()
	s.resume("")
	s.tryExclusive("idle", false)
	s.exclusive("")
	s.release("c", "b")
	s.exclusive("b")
	s.joins("f", "waits")
	s.state("b2", "d e f")
	s.endExclusive("b", "d e f")
	s.exclusive("")
	s.state("d1 b2 f3 e4", "")

	// The only holder has access at once, and may have it again.
	s = newScript(t, 1, Unlimited)
	s.joins("a", "1")
	s.joins("b", "waits")
	s.beginExclusive("a", "a")
	s.endExclusive("a", "")
	s.beginExclusive("a", "a")
	s.exclusive("a")
	s.endExclusive("a", "")
	s.release("a", "b")
}

// Two that both ask for exclusive access do not wait for each other for ever: the one that
// asked first has it while the other stands still. The other's turn comes when the first
// has gone, or wants it again.
func TestExclusiveInTurns(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.beginExclusive("b", "")
	s.beginExclusive("a", "")
	s.release("c", "b")
	s.exclusive("b")
	s.endExclusive("b", "a") // a is woken to look: it has no access yet, since b goes on
	s.exclusive("")
	s.beginExclusive("b", "a") // b stands still again, behind a
	s.exclusive("a")
	s.joins("d", "waits")
	s.endExclusive("a", "b")
	s.exclusive("")
	s.release("a", "b")
	s.exclusive("b")
	s.endExclusive("b", "d")
}

// A waiter whose connection is still at the service goes before those that asked earlier:
// none of these may have access beside that connection.
func TestExclusiveAtService(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.beginExclusive("a", "")
	s.beginAtService("b", "")
	s.release("c", "b")
	s.exclusive("b")
	if woken, ok := s.q.EndExclusive(s.waiter("a"), s.now); ok || woken != nil {
		t.Fatalf("found a to go on beside b, expected it to wait")
	}
	s.endExclusive("b", "a")
	s.exclusive("") // b is at the service still
	s.beginAtService("b", "b")
	s.endExclusive("b", "a")
	s.release("b", "a")
	s.exclusive("a")

	// Two that are at the service do not wait for each other for ever.
	s = newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.beginExclusive("a", "")
	s.beginAtService("b", "")
	s.beginAtService("c", "b")
	s.exclusive("b")
	s.endExclusive("b", "a c") // they look, and have no access
	s.release("b", "c")
	s.exclusive("c")
	s.endExclusive("c", "a")
	s.release("c", "a")
	s.exclusive("a")
	s.endExclusive("a", "")
	s.state("a1", "")
}

// A holder may give up its request while others still hold a slot. If it was the last request,
// slots are granted again.
func TestExclusiveGivenUp(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b", "1")
	s.joins("c", "3")
	s.beginExclusive("a", "")
	s.beginExclusive("b", "")
	s.release("c", "a")
	s.exclusive("a")
	s.endExclusive("a", "b")
	s.joins("d e", "waits")
	s.endExclusive("b", "d")
	s.state("a1 b2 d3", "e")
	s.release("a", "e")
}

// A holder that gives up its request while another has access cannot go on beside it: it waits
// until it is woken.
func TestExclusiveGivenUpBesideAlone(t *testing.T) {
	s := newScript(t, 2, Unlimited)
	s.joins("a b", "1")
	s.joins("c", "waits")
	s.beginExclusive("a", "")
	s.beginExclusive("b", "a")
	if woken, ok := s.q.EndExclusive(s.waiter("b"), s.now); ok || woken != nil {
		t.Fatalf("found %t and %d woken, expected false and none", ok, len(woken))
	}
	s.tick()
	s.exclusive("a")
	s.endExclusive("a", "b")
	s.endExclusive("b", "")
	s.state("a1 b2", "c")
	s.release("a", "c")
}

// An idle lock gives exclusive access at once, without a slot. Waiters that come meanwhile wait. If
// there is any holder or waiter, TryExclusive fails.
func TestTryExclusive(t *testing.T) {
	s := newScript(t, 2, Unlimited)
	s.joins("a", "1")
	s.tryExclusive("i", false)
	s.release("a", "")
	s.tryExclusive("i", true)
	s.exclusive("i")
	s.tryExclusive("j", false)
	s.joins("b c d", "waits")
	s.state("", "b c d")
	s.endExclusive("i", "b c")
	s.state("c1 b2", "d")
	if got := s.q.Load(s.waiter("c")).Number; got != 3 {
		t.Fatalf("found number %d, expected 3: exclusive access without a connection has no number", got)
	}

	s = newScript(t, 1, Unlimited)
	s.pause()
	s.joins("a", "waits")
	s.tryExclusive("i", false) // there is a waiter
	if got, want := s.q.Stats().Total.Joined, uint64(1); got != want {
		t.Fatalf("found %d joined, expected %d: a seizure that failed does not count", got, want)
	}
}

// A waiter without a slot can ask for exclusive access, too. It goes before the line, and takes no
// slot. It may give up at any time, since it has no connection that goes on.
func TestExclusiveWithoutSlot(t *testing.T) {
	s := newScript(t, 2, Unlimited)
	s.joins("a b", "1")
	s.joins("c", "waits")
	s.beginExclusive("i", "")
	s.release("a", "")
	s.exclusive("")
	s.release("b", "i")
	s.exclusive("i")
	s.state("", "c")
	s.beginExclusive("j", "i")
	s.endExclusive("j", "i") // it gives up beside i
	s.exclusive("i")
	s.endExclusive("i", "c")

	// With a holder that wants it as well, they take turns.
	s.beginExclusive("k", "")
	s.beginExclusive("c", "k")
	s.exclusive("k")
	s.endExclusive("k", "c")
	s.exclusive("c")
	s.endExclusive("c", "")

	// A pause does not keep it from its access.
	s.pause()
	s.release("c", "")
	s.beginExclusive("l", "l")
	s.joins("d", "waits")
	s.endExclusive("l", "")
	s.resume("d")
}

// The waiters to wake are the caller's own: the list does not change when the queue goes
// on before they have been woken.
func TestExclusiveWokenList(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.beginExclusive("a", "")
	s.beginExclusive("b", "")
	s.beginExclusive("c", "a")
	woken, _ := s.q.EndExclusive(s.waiter("a"), s.now)
	s.endExclusive("b", "c")
	s.expect("end exclusive a", "b c", woken...)
}
