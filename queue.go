package tcplock

// The queue: who holds a slot, who waits for one, and who is next.
//
// One mutex guards everything below. Whoever wants a slot brings a place, which goes
// through these states:
//
//	                                    Seclude
//	                                   ┌───────▶ secluding
//	                                   │ ┌────── Include
//	                                   │ ▼
//	new ──Join──▶ waiting ──────────▶ holding ──Release──▶ gone
//	 │               └──Leave, Close─────│──────────────────▲
//	 └──Join: at once (Seize: too) ──────┘, refused ────────┘
//
// Who may move a place:
//
//   - waiting → holding is done by whoever makes a slot available (Release,
//     Resize, Resume, Include), under the same mutex hold in which that happens.
//     There is no moment in which a slot that may be granted and somebody in line
//     exist side by side, so a newcomer cannot overtake and a wake-up cannot be
//     missed: the grant is a fact before anybody is told about it.
//   - waiting → gone is done by the owner (Leave) or by Close. An owner that wants
//     to leave and is granted a slot in the same instant has lost: Leave returns
//     false, the place holds a slot, and the owner must Release it.
//   - All other moves are the owner's. One that the state does not allow is a bug
//     of the caller that could end in a slot that does not exist, so it panics.
//
// The queue calls nobody. Operations that grant slots or turn waiters away return
// the places concerned, and the caller wakes their owners after the mutex has been
// given back. It reads no clock either: the caller says what time it is.
//
// Invariants, at every unlock:
//
//	held = number of slots with a holder
//	held <= limit, except while a lowered limit waits for holders to finish
//	waiting > 0  =>  held >= limit, or paused, or somebody wants to be alone
//
// Join, Leave and Release are O(1) whatever the length of the line.

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// Why Join refuses a place.
var (
	errFull   = errors.New("line is full")
	errClosed = errors.New("lock is shutting down")
)

// unlimited as maxWaiting means: the line has no length limit of its own.
const unlimited = -1

type placeState uint8

const (
	placeNew placeState = iota
	placeWaiting
	placeHolding
	placeSecluding // holding, and wants to be alone
	placeGone
)

// place is one connection's place in a queue. The zero value is ready for Join
// and is used once. All fields belong to the queue's mutex, except owner, which
// the queue carries and never looks at.
type place struct {
	owner any

	state  placeState
	slot   int           // from 1 while holding, else 0
	ahead  int           // how many stood in line before it when it joined
	number uint64        // running number of this grant in its queue, from 1
	joined time.Time     // when it joined
	waited time.Duration // how long it stood in line before it was granted its slot

	prev, next *place
}

// slot is one permission to be connected to the service.
type slot struct {
	holder   *place
	nextFree int // the next free slot, 0 after the last
}

// queue is a FIFO semaphore. Use newQueue.
type queue struct {
	mu sync.Mutex

	limit      int // slots; held may exceed it for a while after it was lowered
	maxWaiting int // longest line, or unlimited
	paused     bool
	closed     bool

	slots    []slot // from 1; slots[0] is the head of the free list, the one free longest first
	lastFree int    // the end of the free list, 0 if it is empty
	held     int

	line    place // the ends of the line: next is the head, prev the tail
	waiting int

	// Holders that want to be alone, in the order they asked. While there is
	// one, nobody is granted a slot. The first of them is alone once every other
	// holder has gone or stands in this list as well: two that wait for each
	// other's end would wait for ever.
	seclusion []*place

	quiet chan struct{} // closed when nobody holds or waits; made by Quiet

	total totals // but Joined, which follows from the others
}

// newQueue makes a queue; limit and maxWaiting are those of Resize.
func newQueue(limit, maxWaiting int) *queue {
	q := new(queue)
	q.line.prev, q.line.next = &q.line, &q.line
	q.Resize(limit, maxWaiting, time.Time{})
	return q
}

// Join asks for a slot. It returns true if p holds one now, false with a nil
// error if p stands in line, and errFull or errClosed if p was refused.
func (q *queue) Join(p *place, now time.Time) (holds bool, err error) {
	q.mu.Lock() // unlocked by hand, here and in Release: a defer costs a tenth of the whole
	if p.state != placeNew {
		q.mu.Unlock()
		p.mustBe(placeNew)
	}
	p.joined = now
	switch holds = q.admitting(); {
	case holds: // and nobody stands in line: third invariant
		q.grant(p)
	case q.closed:
		err = q.refuse(p, errClosed)
	case q.maxWaiting != unlimited && q.waiting >= q.maxWaiting:
		err = q.refuse(p, errFull)
	default:
		q.lineUp(p)
	}
	q.mu.Unlock()
	return holds, err
}

// Seize takes a slot and makes p alone if nobody holds or waits and a slot may be
// granted, else it does nothing and returns false. End it with Include and Release. It
// is nobody's connection: it gets no number and counts in no total.
func (q *queue) Seize(p *place, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.mustBe(placeNew)
	if q.held > 0 || !q.admitting() {
		return false
	}
	p.joined = now
	q.take(p)
	q.seclude(p)
	return true
}

// Leave takes p out of the line. It returns false if p is not in line any more:
// it holds a slot (see Holds), or Close has turned it away.
func (q *queue) Leave(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.state != placeWaiting {
		return false
	}
	q.unlink(p)
	p.state = placeGone
	q.total.Left++
	q.noteQuiet()
	return true
}

// Look returns p as it is now.
func (q *queue) Look(p *place) place {
	q.mu.Lock()
	defer q.mu.Unlock()
	return *p
}

// Release gives p's slot back and returns the place to wake, if any: the one that
// was granted the slot, or the one that is alone now. A place that wants to be
// alone is to be Included first.
func (q *queue) Release(p *place, now time.Time) *place {
	q.mu.Lock()
	if p.state != placeHolding {
		q.mu.Unlock()
		p.mustBe(placeHolding)
	}
	q.slots[p.slot].holder = nil
	q.held--
	if p.slot <= q.limit {
		q.free(p.slot)
	}
	p.state, p.slot = placeGone, 0
	var woken *place
	switch {
	case len(q.seclusion) > 0:
		woken = q.alone()
	case q.waiting > 0:
		// At most one can be granted: one slot came free, and before that
		// there was none to grant (third invariant).
		woken = q.grantNext(now)
	default:
		q.noteQuiet()
	}
	q.mu.Unlock()
	return woken
}

// Seclude says that holder p wants to be alone: nobody is granted a slot from now
// on, and p is alone when every other holder has gone or wants to be alone too. It
// returns the place to wake, if any, because it is alone now: p itself, or the one
// that has wanted it longest. End the wish with Include, whether or not it came true.
func (q *queue) Seclude(p *place) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.mustBe(placeHolding)
	q.seclude(p)
	return q.alone()
}

// Alone reports whether p is alone.
func (q *queue) Alone(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.alone() == p
}

// Include ends p's wish to be alone: p goes on as an ordinary holder. It returns the
// places to wake: those that were granted a slot, or those that want to be alone
// still. While another place is alone p cannot go on beside it: Include then does
// nothing and returns false, and p is to call it again when it has been woken.
func (q *queue) Include(p *place, now time.Time) ([]*place, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.mustBe(placeSecluding)
	if alone := q.alone(); alone != nil && alone != p {
		return nil, false
	}
	p.state = placeHolding
	i := slices.Index(q.seclusion, p)
	q.seclusion = slices.Delete(q.seclusion, i, i+1)
	if len(q.seclusion) > 0 {
		return slices.Clone(q.seclusion), true
	}
	return q.grantAll(now), true
}

// Resize sets the number of slots (0 or more) and the longest line (0 or more, or
// unlimited), at once. More slots admit waiters now, returned to be woken; fewer let
// the holders finish. A shorter line sends nobody away.
func (q *queue) Resize(limit, maxWaiting int, now time.Time) []*place {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.slots) <= limit {
		q.slots = append(q.slots, slot{})
	}
	q.lastFree = 0
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		if i > limit {
			q.slots[q.lastFree].nextFree = q.slots[i].nextFree
		} else {
			q.lastFree = i
		}
	}
	for i := q.limit + 1; i <= limit; i++ {
		if q.slots[i].holder == nil {
			q.free(i)
		}
	}
	q.limit, q.maxWaiting = limit, maxWaiting
	return q.grantAll(now)
}

// Pause stops granting slots; holders stay, the line grows.
func (q *queue) Pause() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = true
}

// Resume ends a pause and returns the places to wake.
func (q *queue) Resume(now time.Time) []*place {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = false
	return q.grantAll(now)
}

// Close refuses all who come from now on and turns away those in line, returned
// to be woken. Holders stay.
func (q *queue) Close() (turnedAway []*place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for q.waiting > 0 {
		p := q.line.next
		q.unlink(p)
		_ = q.refuse(p, errClosed)
		turnedAway = append(turnedAway, p)
	}
	q.noteQuiet()
	return turnedAway
}

// Quiet returns a channel that is closed once nobody holds or waits.
func (q *queue) Quiet() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quiet == nil {
		q.quiet = make(chan struct{})
	}
	quiet := q.quiet
	q.noteQuiet()
	return quiet
}

// All below is called with the mutex held.

// admitting reports whether a slot may be granted now.
func (q *queue) admitting() bool {
	return q.held < q.limit && !q.paused && !q.closed && len(q.seclusion) == 0
}

func (q *queue) grant(p *place) {
	q.take(p)
	q.total.Granted++
	p.number = q.total.Granted
}

// take is grant without counting.
func (q *queue) take(p *place) {
	i := q.slots[0].nextFree
	if q.slots[0].nextFree = q.slots[i].nextFree; i == q.lastFree {
		q.lastFree = 0
	}
	q.slots[i].holder = p
	q.held++
	p.state, p.slot = placeHolding, i
}

func (q *queue) grantNext(now time.Time) *place {
	if q.waiting == 0 || !q.admitting() {
		return nil
	}
	p := q.line.next
	q.unlink(p)
	q.grant(p)
	p.waited = now.Sub(p.joined)
	return p
}

func (q *queue) grantAll(now time.Time) (granted []*place) {
	for p := q.grantNext(now); p != nil; p = q.grantNext(now) {
		granted = append(granted, p)
	}
	return granted
}

// free puts slot i at the end of the free list.
func (q *queue) free(i int) {
	q.slots[i].nextFree = 0
	q.slots[q.lastFree].nextFree = i
	q.lastFree = i
}

func (q *queue) refuse(p *place, err error) error {
	p.state = placeGone
	q.total.Refused++
	return err
}

func (q *queue) lineUp(p *place) {
	p.state, p.ahead = placeWaiting, q.waiting
	p.prev, p.next = q.line.prev, &q.line
	p.prev.next, p.next.prev = p, p
	q.waiting++
}

func (q *queue) unlink(p *place) {
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
	q.waiting--
}

func (q *queue) seclude(p *place) {
	p.state = placeSecluding
	q.seclusion = append(q.seclusion, p)
}

// alone returns the place that is alone, nil if none is.
func (q *queue) alone() *place {
	if len(q.seclusion) == 0 || q.held > len(q.seclusion) {
		return nil
	}
	return q.seclusion[0]
}

func (q *queue) noteQuiet() {
	if q.quiet != nil && q.held == 0 && q.waiting == 0 {
		close(q.quiet)
		q.quiet = nil
	}
}

func (p *place) mustBe(state placeState) {
	if p.state != state {
		names := [...]string{"new", "waiting", "holding", "secluding", "gone"}
		panic("tcplock: found a place that is " + names[p.state] + ", expected " + names[state])
	}
}
