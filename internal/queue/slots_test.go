package queue

import "testing"

// A raised limit admits one waiter for each new slot, at once and in order.
func TestResizeUp(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joins("a", "1")
	s.joins("b c d", "waits")
	s.resize(1, Unlimited, "")
	s.resize(3, Unlimited, "b c")
	s.state("a1 b2 c3", "d")
	s.resize(10, Unlimited, "d")
	s.joins("e", "5")
}

// A lowered limit sends no holder away, and admits none until there are fewer
// holders than the new limit. Slots above it are not handed out again.
func TestResizeDown(t *testing.T) {
	s := newScript(t, 4, Unlimited)
	s.joins("a b c d", "1")
	s.joins("e f", "waits")
	s.resize(2, Unlimited, "")
	s.state("a1 b2 c3 d4", "e f")
	s.release("a", "") // three left for two slots
	s.release("c", "") // two left
	s.release("d", "e")
	s.state("e1 b2", "f")
	s.release("b", "f")
	s.state("e1 f2", "")

	// Down to none and up again.
	s.joins("g", "waits")
	s.resize(0, Unlimited, "")
	s.release("e", "")
	s.release("f", "")
	s.state("", "g")
	s.resize(1, Unlimited, "g")
	s.state("g1", "")
}

// A limit that goes up again while a holder sits above where it was: that slot is still
// taken, and comes back to the others when it is released.
func TestResizeDownAndUp(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a b c", "1")
	s.resize(1, Unlimited, "")
	s.release("b", "")
	s.joins("d e f", "waits")
	s.resize(3, Unlimited, "d")
	s.state("a1 d2 c3", "e f")
	s.release("c", "e")
	s.state("a1 d2 e3", "f")
}

// A shorter line sends no waiter away; it refuses new ones until it has become shorter
// by itself. A longer one takes them again.
func TestResizeLine(t *testing.T) {
	s := newScript(t, 1, Unlimited)
	s.joins("a", "1")
	s.joins("b c d", "waits")
	s.resize(1, 2, "")
	s.state("a1", "b c d")
	s.joins("e", ErrFull.Error())
	s.release("a", "b")
	s.joins("f", ErrFull.Error())
	s.release("b", "c")
	s.joins("g", "waits")
	s.resize(1, 3, "")
	s.joins("h", "waits")
	s.resize(1, 0, "")
	s.joins("i", ErrFull.Error())
	s.state("c1", "d g h")
}

// Slots count from 1. Of several free ones the one that has been free longest is
// taken, so that all take turns; a resize does not disturb that, new ones come last.
func TestSlotsTakeTurns(t *testing.T) {
	s := newScript(t, 3, Unlimited)
	s.joins("a", "1")
	s.release("a", "")
	s.joins("b", "2")
	s.joins("c", "3")
	s.joins("d", "1")
	s.release("c", "")
	s.release("b", "")
	s.release("d", "") // free: 3, 2, 1
	s.resize(3, Unlimited, "")
	s.resize(4, Unlimited, "") // 3, 2, 1, 4
	s.joins("e", "3")
	s.release("e", "")         // 2, 1, 4, 3
	s.resize(2, Unlimited, "") // 2, 1
	s.joins("f", "2")
	s.resize(4, Unlimited, "") // 1, 3, 4
	s.release("f", "")
	s.joins("g", "1")
	s.joins("h i", "3")
	s.joins("j", "2")
	s.state("g1 j2 h3 i4", "")
}
