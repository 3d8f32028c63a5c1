package tcplock

import "time"

// queueStats is one moment of a queue, all figures of the same instant.
type queueStats struct {
	Held    int
	Waiting int
	Paused  bool
	Alone   bool      // somebody wants to be alone, or is
	Oldest  time.Time // when the one joined who waits longest; zero if nobody waits
	Total   totals
}

// oldestWait is how long that one has waited at a time, 0 if nobody waits.
func (s *queueStats) oldestWait(now time.Time) time.Duration {
	if s.Oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(s.Oldest))
}

// Stats returns the figures. It is O(1), or O(clients) where they have bounds.
func (q *queue) Stats() queueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats()
}

// Snapshot returns copies of the places of all holders, by slot, and of the first
// waiters, at most so many, in the order in which they go, with the figures of the same
// instant. All other operations wait for it, and it is O(slots and most), or
// O(slots and clients and most) where clients have bounds.
func (q *queue) Snapshot(most int) (stats queueStats, holders, waiters []place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	holders = make([]place, 0, q.held)
	for _, s := range q.slots {
		if s.holder != nil {
			holders = append(holders, *s.holder)
		}
	}
	first := q.waiters(most)
	waiters = make([]place, 0, len(first))
	for _, p := range first {
		waiters = append(waiters, *p)
	}
	return q.stats(), holders, waiters
}

// Quiet reports whether no place holds or waits, and how many have come so far that were
// not refused. It is O(1), since it is asked for at each release.
func (q *queue) Quiet() (visits uint64, quiet bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total.Left + q.total.Granted + uint64(q.waiting), q.held == 0 && q.waiting == 0
}

// Expel takes the place with that seq out of the line, if it waits. A holder stays: it is
// the caller's to cut. Expel returns nil if no such place holds or waits. To find and to
// take out is one step, so that a waiter that leaves in the same moment is not taken for
// a holder. It is O(slots and waiters).
func (q *queue) Expel(seq uint64) (p *place, waited bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p = q.find(seq)
	if p == nil || p.state != placeWaiting {
		return p, false
	}
	p.expelled = true
	q.leave(p)
	return p, true
}

// find returns the place with that seq if it holds or waits, else nil. It sorts and
// allocates nothing.
func (q *queue) find(seq uint64) *place {
	for _, s := range q.slots {
		if s.holder != nil && s.holder.seq == seq {
			return s.holder
		}
	}
	if p := q.line.find(seq); p != nil {
		return p
	}
	for _, c := range q.clients {
		if p := c.aside.find(seq); p != nil {
			return p
		}
	}
	return nil
}

// stats is Stats with the mutex held.
func (q *queue) stats() queueStats {
	t := q.total
	t.Joined = t.Refused + t.Left + t.Granted + uint64(q.waiting)
	return queueStats{q.held, q.waiting, q.paused, len(q.seclusion) > 0, q.oldest(), t}
}

// oldest is when the one joined who waits longest.
func (q *queue) oldest() (oldest time.Time) {
	look := func(l *line) {
		for _, list := range l.lists {
			if p := list.ends.next; p != &list.ends && (oldest.IsZero() || p.joined.Before(oldest)) {
				oldest = p.joined
			}
		}
	}
	look(&q.line)
	for _, c := range q.clients {
		look(&c.aside)
	}
	return oldest
}

// totals count since the queue was made: joined = refused + left + granted + waiting.
type totals struct {
	Joined  uint64 // places that asked
	Refused uint64 // turned away: line full or queue closed
	Left    uint64 // left the line on their own
	Granted uint64 // got a slot
}
