package queue

import (
	"fmt"
	"strings"
	"testing"
)

// Waiters that come while all slots are taken are served in the order in which they came, whichever
// slot comes free.
func TestIsFIFO(t *testing.T) {
	s := newScript(t, 2, Unlimited)
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

// A slot that is handed on belongs to the next in line before any goroutine has heard of it: a
// waiter that joins in that moment stands behind.
func TestNewcomerCannotOvertake(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joins("a", "1")
	s.joins("b", "waits")
	woken := s.q.Release(s.waiter("a"), s.now)
	s.joins("newcomer", "waits") // b has not been woken yet
	s.expect("release a", "b", woken)
	s.state("b1", "newcomer")
	s.leave("newcomer", true)
	s.joins("another", "waits")
	s.release("b", "another")
}

// A full line refuses a new waiter, and 0 means no line at all. A waiter that leaves makes room for
// another.
func TestRefusesWhenFull(t *testing.T) {
	s := newScript(t, 1, 2)
	s.joins("a", "1")
	s.joins("b c", "waits")
	s.joins("d e", ErrFull.Error())
	s.state("a1", "b c")
	s.leave("b", true)
	s.joins("f", "waits")
	s.joins("g", ErrFull.Error())
	s.leave("g", false)
	s.release("a", "c")
	s.joins("h", "waits")

	s = newScript(t, 1, 0)
	s.joins("a", "1")
	s.joins("b", ErrFull.Error())
	s.release("a", "")
	s.joins("c", "1")

	s = newScript(t, 0, 1) // no slots yet: the line is open all the same
	s.joins("a", "waits")
	s.joins("b", ErrFull.Error())
	s.tryExclusive("c", false)
	s.resize(1, 1, "a")
}

// A waiter may leave from the head, the middle and the end of the line, and the others keep their
// order. A waiter that is not in line cannot leave it.
func TestLeave(t *testing.T) {
	s := newScript(t, 1, Unlimited)
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

// A waiter that wants to leave and is granted a slot in the same instant has lost: it holds the
// slot, and giving it back hands it on.
func TestLeaveLosesAgainstGrant(t *testing.T) {
	s := newScript(t, 1, Unlimited)
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

// A move that a waiter's state does not allow is a bug that would hand out a slot which
// does not exist. It panics, says why, and leaves the queue as it was and usable.
func TestMisusePanics(t *testing.T) {
	for _, c := range []struct {
		name, want string
		move       func(*script)
	}{
		{"release twice", "is gone, expected holding", func(s *script) { s.release("gone", "") }},
		{"release in line", "is waiting, expected holding", func(s *script) { s.release("w", "") }},
		{"release never joined", "is new, expected holding", func(s *script) { s.release("new", "") }},
		{"release refused", "is gone, expected holding", func(s *script) { s.release("refused", "") }},
		{"release while it is exclusive", "is exclusive, expected holding", func(s *script) { s.release("x", "") }},
		{"join as holder", "is holding, expected new", func(s *script) { s.joins("h", "waits") }},
		{"join in line", "is waiting, expected new", func(s *script) { s.joins("w", "waits") }},
		{"join again", "is gone, expected new", func(s *script) { s.joins("gone", "waits") }},
		{"try exclusive in line", "is waiting, expected new", func(s *script) { s.tryExclusive("w", true) }},
		{"requeue never joined", "is new, expected holding", func(s *script) { s.requeue("new", "") }},
		{"requeue in line", "is waiting, expected holding", func(s *script) { s.requeue("w", "") }},
		{"requeue released", "is gone, expected holding", func(s *script) { s.requeue("gone", "") }},
		{"requeue while it is exclusive", "is exclusive, expected holding", func(s *script) { s.requeue("x", "") }},
		{"begin exclusive in line", "is waiting, expected holding", func(s *script) { s.beginExclusive("w", "") }},
		{"begin exclusive twice", "is exclusive, expected holding", func(s *script) { s.beginExclusive("x", "") }},
		{"end exclusive without a wish", "is holding, expected exclusive", func(s *script) { s.endExclusive("h", "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t, 3, 1)
			s.joins("gone h x", "1")
			s.release("gone", "")
			s.beginExclusive("x", "")
			s.joins("w", "waits")
			s.joins("refused", ErrFull.Error())
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
			s.endExclusive("x", "w")
			s.release("x", "")
			s.release("w", "")
		})
	}
}

// A pause keeps the holders and lets the line grow up to its bound. No slot is granted, in
// whichever way it comes free, until the pause ends. Then all that can be are.
func TestPause(t *testing.T) {
	s := newScript(t, 2, 4)
	s.joins("a b", "1")
	s.pause()
	s.joins("c", "waits")
	s.release("a", "")
	s.joins("d", "waits")
	s.resize(3, 4, "")
	s.beginExclusive("b", "b")
	s.endExclusive("b", "")
	s.leave("c", true)
	s.joins("e f g", "waits")
	s.joins("h", ErrFullPaused.Error())
	if !s.q.Stats().Paused {
		t.Fatal("found no pause in the figures")
	}
	s.pause() // a second time changes nothing
	s.state("b2", "d e f g")
	s.resume("d e")
	s.state("d1 b2 e3", "f g")
	s.resume("")

	// A pause is for the idle, too.
	s = newScript(t, 1, Unlimited)
	s.pause()
	s.tryExclusive("i", false)
	s.resume("")
	s.tryExclusive("i", true)
}

// A closed queue has turned away its line, in order, and refuses all new waiters, even if slots are
// free. Holders stay. The slots that they release are not granted.
func TestClose(t *testing.T) {
	s := newScript(t, 2, Unlimited)
	s.joins("a b", "1")
	s.joins("c d e", "waits")
	s.leave("d", true)
	s.close("c e")
	s.state("a1 b2", "")
	s.leave("c", false)
	s.release("a", "")
	s.joins("f", ErrClosed.Error())
	s.resize(5, Unlimited, "")
	s.pause()
	s.resume("")
	s.joins("g", ErrClosed.Error())
	s.release("b", "")
	s.tryExclusive("h", false)
	s.close("")
	if got, want := s.q.Stats().Total, (Totals{Joined: 7, Refused: 4, Left: 1, Granted: 2}); got != want {
		t.Fatalf("found %+v, expected %+v", got, want)
	}
}
