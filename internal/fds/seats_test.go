package fds

import (
	"testing"
	"time"
)

// A refused connection keeps its seat for a moment at least. After that the one that has
// had it longest is cut for a new one, but not without end while those that were cut stay.
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
	if s.Leave(first) || s.InUse() != 2 {
		t.Errorf("found the seat kept, or %d in use, expected it lost and 2", s.InUse())
	}
	if !s.Leave(second) || !s.Leave(third) || s.InUse() != 0 || s.first != nil || s.last != nil {
		t.Errorf("found %d seats in use, or some lost, expected none", s.InUse())
	}
}

// cutNote says whether a connection was cut.
type cutNote struct{ cut bool }
