package fds

import (
	"sync"
	"time"
)

// Seats bound how many refused connections the locks keep for a while: at refuse handlers, or
// until the end of their answer has arrived. When all seats are taken, a new connection gets the seat
// of the one that has had its seat longest, which is cut: clients that are slow, or never close, must
// not keep the answer from all others.
type Seats struct {
	most     int64
	mostCut  int64         // how many may have been cut and not have gone yet; then no more is
	patience time.Duration // how long a connection keeps its seat for sure

	mu          sync.Mutex
	first, last *Seat // by how long they have been taken, the longest first
	taken       int64
	cut         int64 // connections that lost their seat and have not gone yet
}

// refusalPatience is how long a connection may be at refuse handlers before another one
// may take its seat.
const refusalPatience = time.Second

// Seat is one connection's. Its owner gives it back by leave, once.
type Seat struct {
	cut        func() // ends its connection
	since      time.Time
	lost       bool
	prev, next *Seat
}

// Enter gives a connection a seat, or returns nil if there is none. cut ends the connection when it
// has lost its seat.
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

// Leave gives a seat back, and reports whether its connection had it to the end.
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

// InUse is how many connections have a seat, or have lost it and not gone yet.
func (s *Seats) InUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.taken + s.cut)
}
