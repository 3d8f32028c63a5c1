package tcplock

import (
	"slices"
	"time"
)

// Being alone: somebody wants every holder (other than itself) to be gone, and nobody to
// be admitted, for as long as it takes.

// Seclude says that p wants to be alone: nobody is granted a slot from now on, and p is
// alone when every other holder has gone or wants to be alone too, see alone. atService
// says that p's connection is still at the service, where no other place may be alone
// beside it. p is a holder, or new: then it has no slot and is nobody's connection. Seclude
// returns the place to wake, if any, because it is alone now: p itself, or another one that
// wants it. End the wish with Include, whether or not it came true.
func (q *queue) Seclude(p *place, atService bool) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.state != placeNew {
		p.mustBe(placeHolding)
	}
	p.atService = atService
	q.seclude(p)
	return q.alone()
}

// Seize makes p, which is new, alone at once if nobody holds, waits or wants to be alone,
// and there is no pause; else it does nothing and returns false. Slots that are out of
// service are no reason not to: p takes none.
func (q *queue) Seize(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.mustBe(placeNew)
	if q.held > 0 || q.waiting > 0 || q.paused || q.closed || len(q.seclusion) > 0 {
		return false
	}
	q.seclude(p)
	return true
}

// Alone reports whether p is alone.
func (q *queue) Alone(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.alone() == p
}

// Include ends p's wish to be alone: p goes on as an ordinary holder, or is gone if it
// has no slot. It returns the places to wake: those that were granted a slot, or those
// that want to be alone still. While another place is alone a holder cannot go on beside
// it: Include then does nothing and returns false, and p is to call it again when it has
// been woken.
func (q *queue) Include(p *place, now time.Time) ([]*place, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.mustBe(placeSecluding)
	if alone := q.alone(); alone != nil && alone != p && p.slot != 0 {
		return nil, false
	}
	p.state, p.atService = placeHolding, false
	if p.slot == 0 {
		p.state = placeGone
	}
	i := slices.Index(q.seclusion, p)
	q.seclusion = slices.Delete(q.seclusion, i, i+1)
	if len(q.seclusion) > 0 {
		return slices.Clone(q.seclusion), true
	}
	granted := q.grantAll(now)
	q.noteVacant()
	return granted, true
}

// All below is called with the mutex held.

func (q *queue) seclude(p *place) {
	p.state = placeSecluding
	q.seclusion = append(q.seclusion, p)
}

// alone returns the place that is alone, nil if none is. There is one when every holder
// wants to be alone. A place that is still at the service goes first: the others would meet
// its connection there. Two of these cannot wait for each other, so the first one goes.
func (q *queue) alone() *place {
	holders := 0
	var first *place
	for _, p := range q.seclusion {
		if p.slot != 0 {
			holders++
		}
		if first == nil || p.atService && !first.atService {
			first = p
		}
	}
	if q.held > holders {
		return nil
	}
	return first
}
