package fds

import (
	"sync"
	"time"
)

// Seats limit how many refused connections stay open for a while: at refuse handlers, or until the
// client has the end of its answer. When all seats are taken, a new connection gets the seat that
// was taken longest ago, and the connection that had it is cut. Otherwise clients that are slow or
// never close would keep all others from their answer.
type Seats struct {
	most     int64
	mostCut  int64         // no connection is cut while so many that were cut have not gone
	patience time.Duration // no connection loses its seat before this time

	mu          sync.Mutex
	first, last *Seat // by how long they have been taken, the longest first
	taken       int64
	cut         int64 // connections that lost their seat and have not gone yet
}

// refusalPatience is how long a connection may stay at refuse handlers before it can lose its seat.
const refusalPatience = time.Second

// Seat is the seat of one connection. Its owner must call Leave once.
type Seat struct {
	cut        func() // ends the connection
	since      time.Time
	lost       bool
	prev, next *Seat
}

// Enter gives a connection a seat. It returns nil if there is none. If the connection loses its
// seat later, cut is called, which must end the connection.
func (s *Seats) Enter(cut func()) *Seat {
	now := time.Now()
	mine := &Seat{cut: cut, since: now}
	s.mu.Lock()
	var loser *Seat
	if s.taken >= s.most {
		if loser = s.first; loser == nil || s.cut >= s.mostCut || now.Sub(loser.since) < s.patience {
			s.mu.Unlock()
			return nil
		}
		s.remove(loser)
		loser.lost = true
		s.cut++
	}
	if mine.prev = s.last; mine.prev != nil {
		mine.prev.next = mine
	} else {
		s.first = mine
	}
	s.last = mine
	s.taken++
	s.mu.Unlock()
	if loser != nil {
		loser.cut()
	}
	return mine
}

// Leave gives a seat back. It returns false if the connection had lost the seat before.
func (s *Seats) Leave(mine *Seat) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mine.lost {
		s.cut--
		return false
	}
	s.remove(mine)
	return true
}

// remove is called with the mutex held.
func (s *Seats) remove(x *Seat) {
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		s.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		s.last = x.prev
	}
	x.prev, x.next = nil, nil
	s.taken--
}

// InUse is how many connections have a seat, or have lost one and have not gone yet.
func (s *Seats) InUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.taken + s.cut)
}
