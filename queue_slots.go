package tcplock

import "time"

// The slots: which are free, in the order in which they came free, and which are out of
// service.

// Out takes slot i out of service: it is not granted any more. It reports whether the
// slot is vacant; if it is not, its holder stays.
func (q *queue) Out(i int) (vacant bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.grow(i)
	q.slots[i].out = true
	q.setFree()
	return q.slots[i].holder == nil
}

// In puts slot i back into service and returns the place to wake, if any.
func (q *queue) In(i int, now time.Time) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.grow(i); !q.slots[i].out {
		return nil
	}
	q.slots[i].out = false
	q.free(i)
	return q.grantNext(now)
}

// Holder returns the place that holds slot i, nil if none does.
func (q *queue) Holder(i int) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i >= len(q.slots) {
		return nil
	}
	return q.slots[i].holder
}

// All below is called with the mutex held.

// takeFree takes the first slot off the free list.
func (q *queue) takeFree() int {
	i := q.slots[0].nextFree
	if q.slots[0].nextFree = q.slots[i].nextFree; i == q.lastFree {
		q.lastFree = 0
	}
	return i
}

// grow makes room for slot i.
func (q *queue) grow(i int) {
	for len(q.slots) <= i {
		q.slots = append(q.slots, slot{})
	}
}

// free puts slot i at the end of the free list, if it is free.
func (q *queue) free(i int) {
	if s := &q.slots[i]; s.holder != nil || s.out || i > q.limit {
		return
	}
	q.slots[i].nextFree = 0
	q.slots[q.lastFree].nextFree = i
	q.lastFree = i
}

// setFree takes out of the free list what is free no longer.
func (q *queue) setFree() {
	q.lastFree = 0
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		if i > q.limit || q.slots[i].out {
			q.slots[q.lastFree].nextFree = q.slots[i].nextFree
		} else {
			q.lastFree = i
		}
	}
}
