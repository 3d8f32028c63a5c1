package queue

import (
	"slices"
	"time"
)

// Exclusive access: a waiter wants every other holder to be gone, and no slot to be granted,
// until it ends its access.

// BeginExclusive asks for exclusive access: no slot is granted from now on, and w has access when
// every other holder has gone or has begun exclusive access too, see exclusive. w is a holder, or
// new: then it has no slot and no connection. atService says that w's connection is still at the
// service, where no other waiter may have access beside it. BeginExclusive returns the waiter to
// wake, if any, because it has access now: w itself, or another one that has asked for it. Every
// BeginExclusive is followed by EndExclusive, whether or not w got its access.
func (q *Queue) BeginExclusive(w *Waiter, atService bool) *Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.State != Unused {
		w.mustBe(Holding)
	}
	w.atService = atService
	q.beginExclusive(w)
	return q.exclusive()
}

// TryExclusive gives w, which is new, exclusive access at once if there is no holder, no waiter, no
// other exclusive access and no pause. Otherwise it does nothing and returns false. It does not
// matter whether slots are out of service: w takes none.
func (q *Queue) TryExclusive(w *Waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.mustBe(Unused)
	if q.held > 0 || q.waiting > 0 || q.paused || q.closed || len(q.exclusives) > 0 {
		return false
	}
	q.beginExclusive(w)
	return true
}

// IsExclusive reports whether w has exclusive access now.
func (q *Queue) IsExclusive(w *Waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.exclusive() == w
}

// EndExclusive ends w's exclusive access, or its wish for it: w goes on as an ordinary holder, or
// is gone if it has no slot. It returns the waiters to wake: those that were granted a slot, or
// those that still ask for access. While another waiter has access, a holder cannot go on beside
// it: then EndExclusive does nothing and returns false, and the caller calls it again when w has
// been woken.
func (q *Queue) EndExclusive(w *Waiter, now time.Time) (woken []*Waiter, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.mustBe(Exclusive)
	if other := q.exclusive(); other != nil && other != w && w.Slot != 0 {
		return nil, false
	}
	w.State, w.atService = Holding, false
	if w.Slot == 0 {
		w.State = Gone
	}
	i := slices.Index(q.exclusives, w)
	q.exclusives = slices.Delete(q.exclusives, i, i+1)
	if len(q.exclusives) > 0 {
		return slices.Clone(q.exclusives), true
	}
	granted := q.grantAll(now)
	q.signalVacant()
	return granted, true
}

// The mutex is held in all functions below.

func (q *Queue) beginExclusive(w *Waiter) {
	w.State = Exclusive
	q.exclusives = append(q.exclusives, w)
}

// exclusive returns the waiter that has exclusive access, nil if none has. One has it when every
// holder has asked for it. A waiter whose connection is still at the service goes first: the others
// would meet that connection there. Two of that kind cannot wait for each other, so the first of
// them goes.
func (q *Queue) exclusive() *Waiter {
	holders := 0
	var first *Waiter
	for _, w := range q.exclusives {
		if w.Slot != 0 {
			holders++
		}
		if first == nil || w.atService && !first.atService {
			first = w
		}
	}
	if q.held > holders {
		return nil
	}
	return first
}
