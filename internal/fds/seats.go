package fds

import (
	"container/list"
	"sync"
	"time"
)

// Seats limit how many refused connections stay open for a while: at refuse handlers, or until the
// client has the end of its answer. When all seats are taken, a new connection gets the seat that
// was taken longest ago, and the connection that had it is cut. Otherwise clients that are slow or
// never close would keep all others from their answer.
type Seats struct {
	mu       sync.Mutex
	most     int64
	mostCut  int64         // no connection is cut while so many that were cut have not gone
	patience time.Duration // no connection loses its seat before this time

	taken list.List // of *Seat, the one taken longest ago first
	cut   int64     // connections that lost their seat and have not gone yet
}

// refusalPatience is how long a connection may stay at refuse handlers before it can lose its seat.
const refusalPatience = time.Second

// Seat is the seat of one connection. Its owner must call Leave once.
type Seat struct {
	cut   func() // ends the connection
	since time.Time
	at    *list.Element // nil: the seat is lost
}

func (s *Seats) bound(most, mostCut int64, patience time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most, s.mostCut, s.patience = most, mostCut, patience
}

// Enter gives a connection a seat. It returns nil if there is none. If the connection loses its
// seat later, cut is called, which must end the connection.
func (s *Seats) Enter(cut func()) *Seat {
	mine := &Seat{cut: cut, since: time.Now()}
	loser, ok := s.enter(mine)
	if !ok {
		return nil
	}
	if loser != nil {
		loser.cut()
	}
	return mine
}

// enter gives mine a seat, which may be that of loser. It returns false if there is none.
func (s *Seats) enter(mine *Seat) (loser *Seat, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(s.taken.Len()) >= s.most {
		first := s.taken.Front()
		if first == nil || s.cut >= s.mostCut || mine.since.Sub(first.Value.(*Seat).since) < s.patience {
			return nil, false
		}
		loser = s.taken.Remove(first).(*Seat)
		loser.at = nil
		s.cut++
	}
	mine.at = s.taken.PushBack(mine)
	return loser, true
}

// Leave gives a seat back. It returns false if the connection had lost the seat before.
func (s *Seats) Leave(mine *Seat) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mine.at == nil {
		s.cut--
		return false
	}
	s.taken.Remove(mine.at)
	return true
}

// inUse is how many connections have a seat, or have lost one and have not gone yet.
func (s *Seats) inUse() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.taken.Len()) + s.cut
}
