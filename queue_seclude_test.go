package tcplock

import "testing"

// A holder that wants to be alone is, once the others have gone. Nobody is granted a
// slot meanwhile; when it is done, all that can be are, at once and in order.
func TestQueueSeclude(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a b c", "1")
	s.seclude("b", "")
	s.alone("")
	s.joins("d", "waits")
	s.release("a", "")
	s.joins("e", "waits")
	s.resize(4, unlimited, "")
	s.pause()
	s.resume("")
	s.seize("idle", false)
	s.alone("")
	s.release("c", "b")
	s.alone("b")
	s.joins("f", "waits")
	s.state("b2", "d e f")
	s.include("b", "d e f")
	s.alone("")
	s.state("d1 b2 f3 e4", "")

	// The only holder is alone at once, and may be so again.
	s = newScript(t, 1, unlimited)
	s.joins("a", "1")
	s.joins("b", "waits")
	s.seclude("a", "a")
	s.include("a", "")
	s.seclude("a", "a")
	s.alone("a")
	s.include("a", "")
	s.release("a", "b")
}

// Two that both want to be alone do not wait for each other for ever: the first who
// asked is alone while the other stands still. The other's turn comes when the first
// has gone, or wants it again.
func TestQueueSecludeInTurns(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a b c", "1")
	s.seclude("b", "")
	s.seclude("a", "")
	s.release("c", "b")
	s.alone("b")
	s.include("b", "a") // a is told to look: not alone yet, b goes on
	s.alone("")
	s.seclude("b", "a") // b stands still again, behind a
	s.alone("a")
	s.joins("d", "waits")
	s.include("a", "b")
	s.alone("")
	s.release("a", "b")
	s.alone("b")
	s.include("b", "d")
}

// A place whose connection is still at the service goes before those that asked earlier:
// none of these may be alone beside that connection.
func TestQueueSecludeAtService(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a b c", "1")
	s.seclude("a", "")
	s.secludeAtService("b", "")
	s.release("c", "b")
	s.alone("b")
	if woken, ok := s.q.Include(s.place("a"), s.now); ok || woken != nil {
		t.Fatalf("found a to go on beside b, expected it to wait")
	}
	s.include("b", "a")
	s.alone("") // b is at the service still
	s.secludeAtService("b", "b")
	s.include("b", "a")
	s.release("b", "a")
	s.alone("a")

	// Two that are at the service do not wait for each other for ever.
	s = newScript(t, 3, unlimited)
	s.joins("a b c", "1")
	s.seclude("a", "")
	s.secludeAtService("b", "")
	s.secludeAtService("c", "b")
	s.alone("b")
	s.include("b", "a c") // they look, and are not alone
	s.release("b", "c")
	s.alone("c")
	s.include("c", "a")
	s.release("c", "a")
	s.alone("a")
	s.include("a", "")
	s.state("a1", "")
}

// The wish may be given up while others still hold a slot, and if it was the last one,
// slots are granted again.
func TestQueueSecludeGivenUp(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a b", "1")
	s.joins("c", "3")
	s.seclude("a", "")
	s.seclude("b", "")
	s.release("c", "a")
	s.alone("a")
	s.include("a", "b")
	s.joins("d e", "waits")
	s.include("b", "d")
	s.state("a1 b2 d3", "e")
	s.release("a", "e")
}

// Who gives up the wish while another is alone cannot go on beside it: it has to wait
// until it is woken.
func TestQueueSecludeGivenUpBesideAlone(t *testing.T) {
	s := newScript(t, 2, unlimited)
	s.joins("a b", "1")
	s.joins("c", "waits")
	s.seclude("a", "")
	s.seclude("b", "a")
	if woken, ok := s.q.Include(s.place("b"), s.now); ok || woken != nil {
		t.Fatalf("found %t and %d woken, expected false and nobody", ok, len(woken))
	}
	s.tick()
	s.alone("a")
	s.include("a", "b")
	s.include("b", "")
	s.state("a1 b2", "c")
	s.release("a", "c")
}

// An idle lock can be seized, without a slot: whoever comes meanwhile waits. With anybody
// there it cannot.
func TestQueueSeize(t *testing.T) {
	s := newScript(t, 2, unlimited)
	s.joins("a", "1")
	s.seize("i", false)
	s.release("a", "")
	s.seize("i", true)
	s.alone("i")
	s.seize("j", false)
	s.joins("b c d", "waits")
	s.state("", "b c d")
	s.include("i", "b c")
	s.state("c1 b2", "d")
	if got := s.q.Look(s.place("c")).number; got != 3 {
		t.Fatalf("found number %d, expected 3: a seizure is nobody's connection", got)
	}

	s = newScript(t, 1, unlimited)
	s.pause()
	s.joins("a", "waits")
	s.seize("i", false) // somebody waits
	if got, want := s.q.Stats().Total.Joined, uint64(1); got != want {
		t.Fatalf("found %d joined, expected %d: a seizure that failed does not count", got, want)
	}
}

// Who has no slot can want to be alone, too: it goes before the line, and takes no slot
// from anybody. It may give up at any time, since nothing of it goes on.
func TestQueueSecludeWithoutSlot(t *testing.T) {
	s := newScript(t, 2, unlimited)
	s.joins("a b", "1")
	s.joins("c", "waits")
	s.seclude("i", "")
	s.release("a", "")
	s.alone("")
	s.release("b", "i")
	s.alone("i")
	s.state("", "c")
	s.seclude("j", "i")
	s.include("j", "i") // it gives up beside i
	s.alone("i")
	s.include("i", "c")

	// With a holder that wants it as well, they take turns.
	s.seclude("k", "")
	s.seclude("c", "k")
	s.alone("k")
	s.include("k", "c")
	s.alone("c")
	s.include("c", "")

	// A pause does not keep it from being alone.
	s.pause()
	s.release("c", "")
	s.seclude("l", "l")
	s.joins("d", "waits")
	s.include("l", "")
	s.resume("d")
}

// The places to wake are the caller's own: the list does not change when the queue goes
// on before they have been woken.
func TestQueueSecludeWokenList(t *testing.T) {
	s := newScript(t, 3, unlimited)
	s.joins("a b c", "1")
	s.seclude("a", "")
	s.seclude("b", "")
	s.seclude("c", "a")
	woken, _ := s.q.Include(s.place("a"), s.now)
	s.include("b", "c")
	s.expect("include a", "b c", woken...)
}
