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

// Find returns the place with that seq if it holds or waits, else nil. It is O(slots and
// waiters).
func (q *queue) Find(seq uint64) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.slots {
		if s.holder != nil && s.holder.seq == seq {
			return s.holder
		}
	}
	for _, p := range q.waiters(q.waiting) {
		if p.seq == seq {
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

// visits counts those that were in the lock: all that asked but those that were refused.
func (t totals) visits() uint64 { return t.Joined - t.Refused }

// totals count since the queue was made: joined = refused + left + granted + waiting.
type totals struct {
	Joined  uint64 // places that asked
	Refused uint64 // turned away: line full or queue closed
	Left    uint64 // left the line on their own
	Granted uint64 // got a slot
}
