package queue

import (
	"slices"
	"time"
)

// Stats are the figures of a queue, all of the same instant.
type Stats struct {
	Held      int
	Waiting   int
	Paused    bool
	Exclusive bool      // a waiter has exclusive access, or has asked for it
	Oldest    time.Time // when the longest waiting one joined; zero if none waits
	Clients   int       // that have a waiter, where clients have bounds
	Total     Totals
}

// OldestWait is how long that one has waited by now, 0 if none waits.
func (s *Stats) OldestWait(now time.Time) time.Duration {
	if s.Oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(s.Oldest))
}

// Totals count since the queue was made: joined = refused + left + granted + waiting.
type Totals struct {
	Joined  uint64 // waiters that asked for a slot
	Refused uint64 // turned away: the line was full, or the queue closed
	Left    uint64 // left the line
	Granted uint64 // got a slot
}

// Stats returns the figures. It is O(1), or O(clients) where they have bounds.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats()
}

// Snapshot returns copies of all holders, by slot, and of the first waiters, at most so many, in
// the order in which they go, with the figures of the same instant. All other operations wait for
// it. It is O(slots and most), or O(slots and clients and most) where clients have bounds.
func (q *Queue) Snapshot(most int) (stats Stats, holders, waiters []Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	holders = make([]Waiter, 0, q.held)
	for _, s := range q.slots {
		if s.holder != nil {
			holders = append(holders, *s.holder)
		}
	}
	first := q.waiters(most)
	waiters = make([]Waiter, 0, len(first))
	for _, w := range first {
		waiters = append(waiters, *w)
	}
	return q.stats(), holders, waiters
}

// Idle reports whether there is no holder and no waiter, and how many have joined so far and were
// not refused. It is O(1), since every release asks for it.
func (q *Queue) Idle() (visits uint64, idle bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total.Left + q.total.Granted + uint64(q.waiting), q.held == 0 && q.waiting == 0
}

// Expel takes the waiter with that ID out of the line, if it waits. A holder stays: to cut it is up
// to the caller. Expel returns nil if no waiter with that ID waits or holds a slot. Expel finds the
// waiter and takes it out in one step, so that a waiter that leaves in the same moment is not
// mistaken for a holder. It is O(slots and waiters).
func (q *Queue) Expel(id uint64) (w *Waiter, waited bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w = q.find(id)
	if w == nil || w.State != Waiting {
		return w, false
	}
	w.Expelled = true
	q.leave(w)
	return w, true
}

// The mutex is held in all functions below.

// find returns the waiter with that ID if it waits or holds a slot, else nil. It sorts and
// allocates nothing.
func (q *Queue) find(id uint64) *Waiter {
	for _, s := range q.slots {
		if s.holder != nil && s.holder.ID == id {
			return s.holder
		}
	}
	for list := range q.lists {
		for w := range list.waiters {
			if w.ID == id {
				return w
			}
		}
	}
	return nil
}

func (q *Queue) stats() Stats {
	t := q.total
	t.Joined = t.Refused + t.Left + t.Granted + uint64(q.waiting)
	return Stats{q.held, q.waiting, q.paused, len(q.exclusives) > 0, q.oldest(), len(q.clients), t}
}

// oldest is when the longest waiting waiter joined.
func (q *Queue) oldest() (oldest time.Time) {
	for list := range q.lists {
		if w := list.root.next; w != &list.root && (oldest.IsZero() || w.Joined.Before(oldest)) {
			oldest = w.Joined
		}
	}
	return oldest
}

// Only tests of other packages use what follows.

// Bounds returns the bounds that are in force.
func (q *Queue) Bounds() Bounds {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bounds
}

// Free returns the slots that are free and in service.
func (q *Queue) Free() (free []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		free = append(free, i)
	}
	slices.Sort(free)
	return free
}

// Hold keeps all other operations waiting until release is called.
func (q *Queue) Hold() (release func()) {
	q.mu.Lock()
	return q.mu.Unlock
}
