package tcplock

// The queue: who holds a slot, who waits for one, and who is next.
//
// One mutex guards everything below. Whoever wants a slot brings a place, which goes
// through these states:
//
//	                                    Seclude
//	               Requeue             ┌───────▶ secluding
//	             ┌───────────────────┐ │ ┌────── Include
//	             ▼                   │ │ ▼
//	new ──Join──▶ waiting ──────────▶ holding ──Release──▶ gone
//	 │               └──Leave, Close─────│──────────────────▲
//	 ├──Join: at once ───────────────────┘, refused ────────┤
//	 └──Seclude, Seize ──▶ secluding without a slot ─Include┘
//
// Who may move a place:
//
//   - waiting → holding is done by whoever makes a slot available (Release, Requeue,
//     In, Set, Resume, Include), under the same mutex hold in which that happens.
//     There is no moment in which a slot that may be granted and somebody in line
//     exist side by side, so a newcomer cannot overtake and a wake-up cannot be
//     missed: the grant is a fact before anybody is told about it.
//   - waiting → gone is done by Leave, Expel or Close. Who wants to leave and is granted a
//     slot in the same instant has lost: Leave returns false, the place holds a slot,
//     and the owner must Release it.
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
//	somebody in line  =>  no slot is free, or held >= limit, or paused, or somebody
//	                      wants to be alone
//
// In line are all who wait, but those who stand aside, because their client held as many
// slots as it may when it was their turn: see queue_line.go.
//
// Join, Leave and Release are O(1) whatever the length of the line.

import (
	"errors"
	"sync"
	"time"
)

// Why Join refuses a place.
var (
	errFull       = errors.New("line is full")
	errFullPaused = errors.New("line is full, the lock is paused")
	errClientFull = errors.New("line is full for this client")
	errClosed     = errors.New("lock is shutting down")
)

// unlimited as maxWaiting means: the line has no length limit of its own.
const unlimited = -1

type placeState uint8

const (
	placeNew placeState = iota
	placeWaiting
	placeHolding
	placeSecluding // wants to be alone; with a slot, or without
	placeGone
)

// place is one connection's place in a queue. The zero value is ready for Join
// and is used once. All fields belong to the queue's mutex. The first three are the
// caller's to set before Join: the queue carries owner and never looks at it.
type place struct {
	owner    any
	client   clientKey // whose it is, for the bounds of each client; zero: nobody's
	priority int       // higher goes first

	state     placeState
	atService bool          // secluding, but the service has not let go of its connection
	slot      int           // from 1 while holding, else 0
	ahead     int           // how many waited when it joined, if it had to wait
	number    uint64        // running number of this grant in its queue, from 1
	joined    time.Time     // when it joined
	waited    time.Duration // how long it stood in line before it was granted its slot
	apart     time.Duration // how much of the time since it joined is not time in line, see Requeue

	expelled bool // it is gone because of Expel

	seq        uint64 // order of joining, from 1; never changes after that
	from       *client
	prev, next *place
}

// slot is one permission to be connected to the service.
type slot struct {
	holder   *place
	out      bool // out of service: not to be granted
	nextFree int  // the next free slot, 0 after the last
}

// bounds are what a queue keeps to.
type bounds struct {
	limit            int           // slots; held may exceed it for a while after it was lowered
	maxWaiting       int           // how many may wait, or unlimited
	perClient        int           // how many slots one client may hold, 0: no bound
	waitingPerClient int           // how many of one client may wait, 0: no bound
	priorityAge      time.Duration // the time in line that makes up for 1 of priority, 0: none does
}

// queue is a FIFO semaphore. Use newQueue.
type queue struct {
	mu sync.Mutex

	bounds
	paused bool
	closed bool

	slots    []slot // from 1; slots[0] is the head of the free list, the one free longest first
	lastFree int    // the end of the free list, 0 if it is empty
	held     int

	line    line
	waiting int // in line and aside
	clients map[clientKey]*client
	spare   *client // one that has gone; nil: none
	arrived uint64  // the last seq
	grants  uint64  // the last number

	// Those who want to be alone, in the order they asked. While there is one, nobody
	// is granted a slot. Once every other holder has gone or stands in this list as well,
	// one of them is alone: two that wait for each other's end would wait for ever.
	seclusion []*place

	vacant chan struct{} // closed when nobody holds or wants to be alone; made by Vacant

	total totals // but Joined, which follows from the others
}

func newQueue(b bounds) *queue {
	q := new(queue)
	q.Set(b, time.Time{})
	return q
}

// Join asks for a slot. It returns true if p holds one now, false with a nil
// error if p stands in line, and errFull, errFullPaused, errClientFull or errClosed if
// p was refused.
func (q *queue) Join(p *place, now time.Time) (holds bool, err error) {
	q.mu.Lock() // unlocked by hand, here and in Release: a defer costs a tenth of the whole
	if p.state != placeNew {
		q.mu.Unlock()
		p.mustBe(placeNew)
	}
	q.arrived++
	p.joined, p.seq = now, q.arrived
	if q.countsClients() {
		q.know(p)
	}
	switch holds = q.admitting() && !q.hasItsShare(p.from); {
	case holds: // and nobody stands in line: third invariant
		q.grant(p)
	case q.closed:
		err = q.refuse(p, errClosed)
	case q.maxWaiting != unlimited && q.waiting >= q.maxWaiting && q.paused:
		err = q.refuse(p, errFullPaused)
	case q.maxWaiting != unlimited && q.waiting >= q.maxWaiting:
		err = q.refuse(p, errFull)
	case p.from != nil && q.waitingPerClient > 0 && p.from.waiting >= q.waitingPerClient:
		err = q.refuse(p, errClientFull)
	default:
		p.ahead = q.waiting
		q.lineUp(p)
	}
	q.mu.Unlock()
	return holds, err
}

// Leave takes p out of the line. It returns false if p is not in line any more:
// it holds a slot, or has left or been turned away before (see Look).
func (q *queue) Leave(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.state != placeWaiting {
		return false
	}
	q.leave(p)
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
	q.vacate(p)
	p.state = placeGone
	q.forget(p)
	var woken *place
	if q.waiting > 0 || len(q.seclusion) > 0 {
		woken = q.handOn(now)
	}
	q.noteVacant()
	q.mu.Unlock()
	return woken
}

// Requeue takes p's slot away and puts p back in line, where it stood. The time with
// the slot counts as time in line, but for apart, which is the sum of all slots that p has
// had. Requeue returns the place to wake, if any, which may be p.
func (q *queue) Requeue(p *place, now time.Time, apart time.Duration) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.mustBe(placeHolding)
	p.apart = apart
	q.total.Granted--
	if q.closed {
		q.vacate(p)
		_ = q.refuse(p, errClosed)
	} else {
		q.lineUp(p) // before its slot is free: of its client, one may go on for it
		q.vacate(p)
	}
	woken := q.handOn(now)
	q.noteVacant()
	return woken
}

// Set sets the bounds, at once. More slots admit waiters now, returned to be woken; fewer
// let the holders finish. A shorter line sends nobody away.
func (q *queue) Set(b bounds, now time.Time) []*place {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.bounds
	q.bounds = b
	q.grow(b.limit)
	q.setFree()
	for i := before.limit + 1; i <= b.limit; i++ {
		q.free(i)
	}
	if before.countsClients() != b.countsClients() ||
		b.countsClients() && (before.perClient != b.perClient || before.priorityAge != b.priorityAge) {
		q.regroup() // other places stand aside; it sorts the line
	}
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

// Close refuses all who come from now on and turns away those who wait, returned
// to be woken. Holders stay.
func (q *queue) Close() (turnedAway []*place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	turnedAway = q.waiters(q.waiting)
	for _, p := range turnedAway {
		q.stepOut(p)
		_ = q.refuse(p, errClosed)
	}
	return turnedAway
}

// Vacant returns a channel that is closed once nobody holds a slot or wants to be alone.
func (q *queue) Vacant() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.vacant == nil {
		q.vacant = make(chan struct{})
	}
	vacant := q.vacant
	q.noteVacant()
	return vacant
}

// All below is called with the mutex held.

// admitting reports whether a slot may be granted now.
func (q *queue) admitting() bool {
	return q.slots[0].nextFree != 0 && q.held < q.limit && !q.paused && !q.closed && len(q.seclusion) == 0
}

func (q *queue) grant(p *place) {
	i := q.takeFree()
	q.slots[i].holder = p
	q.held++
	p.state, p.slot = placeHolding, i
	if p.from != nil {
		p.from.held++
	}
	q.total.Granted++
	q.grants++
	p.number = q.grants
}

// leave takes p, which waits, out of the line for good.
func (q *queue) leave(p *place) {
	q.stepOut(p)
	p.state = placeGone
	q.total.Left++
	q.forget(p)
}

// vacate takes p's slot away.
func (q *queue) vacate(p *place) {
	i := p.slot
	q.slots[i].holder, p.slot = nil, 0
	q.held--
	q.free(i)
	if c := p.from; c != nil {
		c.held--
		q.bringBack(c)
	}
}

// handOn tells who goes on after a holder has gone.
func (q *queue) handOn(now time.Time) *place {
	if len(q.seclusion) > 0 {
		return q.alone()
	}
	// At most one can be granted: one slot came free, and before that there was
	// none to grant (third invariant).
	return q.grantNext(now)
}

func (q *queue) grantNext(now time.Time) *place {
	for q.admitting() {
		p := q.line.first(q.priorityAge)
		if p == nil {
			return nil
		}
		if q.hasItsShare(p.from) {
			q.standAside(p)
			continue
		}
		q.unlink(p)
		q.grant(p)
		p.waited = max(0, now.Sub(p.joined)-p.apart) // p may have come just after now was read
		return p
	}
	return nil
}

func (q *queue) grantAll(now time.Time) (granted []*place) {
	for p := q.grantNext(now); p != nil; p = q.grantNext(now) {
		granted = append(granted, p)
	}
	return granted
}

func (q *queue) refuse(p *place, err error) error {
	p.state = placeGone
	q.total.Refused++
	q.forget(p)
	return err
}

func (q *queue) noteVacant() {
	if q.vacant != nil && q.held == 0 && len(q.seclusion) == 0 {
		close(q.vacant)
		q.vacant = nil
	}
}

func (p *place) mustBe(state placeState) {
	if p.state != state {
		names := [...]string{"new", "waiting", "holding", "secluding", "gone"}
		panic("tcplock: found a place that is " + names[p.state] + ", expected " + names[state])
	}
}
