package fds

import (
	"testing"
	"time"
)

// A refused connection keeps its seat for the patience. After that the oldest is cut for a new one,
// unless too many that were cut have not gone yet.
func TestSeats(t *testing.T) {
	s := Seats{most: 2, mostCut: 1, patience: time.Hour}
	enter := func(want bool) (*Seat, *cutNote) {
		t.Helper()
		note := new(cutNote)
		x := s.Enter(func() { note.cut = true })
		if (x != nil) != want {
			t.Fatalf("found a seat %t, expected %t", x != nil, want)
		}
		return x, note
	}
	first, firstNote := enter(true)
	second, secondNote := enter(true)
	enter(false) // both are new
	s.patience = 0
	third, thirdNote := enter(true)
	if !firstNote.cut || secondNote.cut || thirdNote.cut {
		t.Errorf("found cut: %t %t %t, expected the first only", firstNote.cut, secondNote.cut, thirdNote.cut)
	}
	enter(false) // the first has not gone yet
	if s.Leave(first) || s.inUse() != 2 {
		t.Errorf("found the seat kept, or %d in use, expected it lost and 2", s.inUse())
	}
	if !s.Leave(second) || !s.Leave(third) || s.inUse() != 0 {
		t.Errorf("found %d seats in use, or some lost, expected none", s.inUse())
	}
}

// cutNote records whether a connection was cut.
type cutNote struct{ cut bool }
