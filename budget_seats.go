package tcplock

import (
	"sync"
	"time"
)

// seats bound how many refused connections the locks keep for a while, at refuse handlers
// or until the last of their answer has arrived. When all seats are taken, the connection
// that has had one longest is cut in favour of the new one: clients that are slow, or that
// never close, must not take the answer from all others.
type seats struct {
	most     int64
	mostCut  int64         // how many may have been cut and not have gone yet; then no more is
	patience time.Duration // how long a connection keeps its seat for sure

	mu          sync.Mutex
	first, last *seat // by how long they have been taken, the longest first
	taken       int64
	cut         int64 // connections that lost their seat and have not gone yet
}

// refusalPatience is how long a connection may be at refuse handlers before another one
// may take its seat.
const refusalPatience = time.Second

// seat is one connection's. Its owner gives it back by leave, once.
type seat struct {
	conn       *clientConn
	since      time.Time
	lost       bool
	prev, next *seat
}

// enter gives c a seat, or returns nil if there is none.
func (s *seats) enter(c *clientConn) *seat {
	now := time.Now()
	mine := &seat{conn: c, since: now}
	s.mu.Lock()
	var loser *seat
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
		loser.conn.cut()
	}
	return mine
}

// leave gives a seat back, and reports whether its connection had it to the end.
func (s *seats) leave(mine *seat) (kept bool) {
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
func (s *seats) remove(x *seat) {
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

// inUse is how many connections have a seat, or have lost it and not gone yet.
func (s *seats) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.taken + s.cut)
}
