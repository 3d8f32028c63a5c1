package queue

import "time"

// The slots: a list of the free ones, in the order in which they came free, and which ones are out
// of service.

type slotTable struct {
	slots    []slot // from 1; slots[0] is the head of the free list, the longest free slot first
	lastFree int    // the end of the free list, 0 if the list is empty
	held     int
	allOut   bool // all slots are out of service
}

// slot is one permission to be connected to the service.
type slot struct {
	holder   *Waiter
	out      bool // out of service: must not be granted
	nextFree int  // the next free slot, 0 after the last
}

// Out takes slot i out of service: it is not granted any more. Out reports whether the slot is
// vacant. If it is not, its holder stays.
func (q *Queue) Out(i int) (vacant bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.grow(i)
	q.slots[i].out = true
	q.setFree()
	return q.slots[i].holder == nil
}

// In puts slot i back into service and returns the waiter to wake, if any.
func (q *Queue) In(i int, now time.Time) *Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.grow(i); !q.slots[i].out {
		return nil
	}
	q.slots[i].out = false
	q.free(i)
	return q.grantNext(now)
}

// OutAll takes all slots out of service, on top of what Out and In say of each. Their holders stay.
func (q *Queue) OutAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.allOut = true
}

// InAll ends OutAll and returns the waiters to wake.
func (q *Queue) InAll(now time.Time) []*Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.allOut = false
	return q.grantAll(now)
}

// Holder returns the waiter that holds slot i, nil if none does.
func (q *Queue) Holder(i int) *Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i >= len(q.slots) {
		return nil
	}
	return q.slots[i].holder
}

// The mutex is held in all functions below.

// takeFree takes the first slot off the free list.
func (q *Queue) takeFree() int {
	i := q.slots[0].nextFree
	if q.slots[0].nextFree = q.slots[i].nextFree; i == q.lastFree {
		q.lastFree = 0
	}
	return i
}

// grow makes room for slot i.
func (q *Queue) grow(i int) {
	for len(q.slots) <= i {
		q.slots = append(q.slots, slot{})
	}
}

// free puts slot i at the end of the free list, if it is free.
func (q *Queue) free(i int) {
	if s := &q.slots[i]; s.holder != nil || s.out || i > q.bounds.Limit {
		return
	}
	q.slots[i].nextFree = 0
	q.slots[q.lastFree].nextFree = i
	q.lastFree = i
}

// setFree takes the slots off the free list that are not free any more.
func (q *Queue) setFree() {
	q.lastFree = 0
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		if i > q.bounds.Limit || q.slots[i].out {
			q.slots[q.lastFree].nextFree = q.slots[i].nextFree
		} else {
			q.lastFree = i
		}
	}
}
