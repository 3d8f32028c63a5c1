package tcplock

// The queue: who holds a slot, who waits for one, and who is next.
//
// One mutex guards everything below. Whoever wants a slot brings a place, which
// goes through these states and never back:
//
//	           granted at once
//	     ┌───────────────────────────┐
//	   (new) ──Join──▶ waiting ──▶ holding ──Release──▶ gone
//	     │                │  granted                     ▲
//	     └─ full, closed ─┴──────── Leave, Close ────────┘
//
// Who may move a place:
//
//   - Only its owner calls Join, Leave and Release.
//   - waiting → holding is done by whoever makes a slot available (Release,
//     Resize, Resume, Include), under the same mutex hold in which the slot came
//     free. There is no moment in which a free slot and a non-empty line exist
//     side by side, so a newcomer cannot overtake and a wake-up cannot be missed:
//     the grant is a fact before anybody is told about it.
//   - waiting → gone is done by the owner (Leave) or by Close. An owner that wants
//     to leave and is granted a slot in the same instant has lost: Leave returns
//     false, the place holds a slot, and the owner must Release it.
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
	placeGone
)

// place is one connection's place in a queue. The zero value is ready for Join
// and is used once. All fields belong to the queue's mutex, except owner, which
// the queue carries and never looks at.
type place struct {
	owner any

	state  placeState
	slot   int       // from 1 while holding, else 0
	ahead  int       // how many stood in line before it when it joined
	number uint64    // running number of this grant in its queue, from 1
	joined time.Time // when it joined
	held   time.Time // when it was granted its slot

	prev, next *place
}

// slot is one permission to be connected to the service.
type slot struct {
	holder   *place
	nextFree int // next index in the free list, 0 at its end
}

// queue is a FIFO semaphore. Use newQueue.
type queue struct {
	mu sync.Mutex

	limit      int // slots; held may exceed it for a while after it was lowered
	maxWaiting int // longest line, or unlimited
	paused     bool
	closed     bool

	slots              []slot // index 0 is unused
	freeHead, freeTail int    // free slots, the one free longest first
	held               int

	head, tail *place // the line
	waiting    int

	// Holders that want to be alone, in the order they asked. While there is
	// one, nobody is granted a slot. The first of them is alone (is true) once
	// every other holder has gone or stands in this list as well: two that
	// wait for each other's end would wait for ever.
	seclusion []*place
	alone     bool

	quiet chan struct{} // closed when nobody holds or waits; made by Quiet

	total totals
}

// totals count since the queue was made: joined = refused + left + granted + waiting.
type totals struct {
	Joined  uint64 // places that asked
	Refused uint64 // turned away: line full or queue closed
	Left    uint64 // left the line on their own
	Granted uint64 // got a slot
}

func newQueue(limit, maxWaiting int) *queue {
	q := new(queue)
	q.Resize(limit, maxWaiting, time.Time{})
	return q
}

// Join asks for a slot. It returns true if p holds one now, false with a nil
// error if p stands in line, and errFull or errClosed if p was refused.
func (q *queue) Join(p *place, now time.Time) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total.Joined++
	p.joined = now
	switch {
	case q.closed:
		return false, q.refuse(p, errClosed)
	case q.admitting() && q.waiting == 0:
		q.grant(p, now)
		return true, nil
	case q.maxWaiting != unlimited && q.waiting >= q.maxWaiting:
		return false, q.refuse(p, errFull)
	}
	p.ahead = q.waiting
	q.append(p)
	return false, nil
}

// Seize takes a slot and makes p alone if nobody holds or waits, else it does
// nothing and returns false. End it with Include and Release.
func (q *queue) Seize(p *place, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.held > 0 || q.waiting > 0 {
		return false
	}
	q.total.Joined++
	p.joined = now
	q.grant(p, now)
	q.seclusion, q.alone = append(q.seclusion, p), true
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

// Holds reports p's slot, 0 if it has none.
func (q *queue) Holds(p *place) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return p.slot
}

// Release gives p's slot back and returns the place to wake, if any: the one that
// was granted the slot, or the one that is alone now. Only a holder may call it,
// once, and not while it wants to be alone: a second release would hand out a slot
// that does not exist, and the end of a seclusion can grant more than one, which
// is what Include is for. Both are bugs of the caller, so they panic.
func (q *queue) Release(p *place, now time.Time) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.state != placeHolding {
		panic("tcplock: release of a place that holds no slot")
	}
	if slices.Contains(q.seclusion, p) {
		panic("tcplock: release of a place that wants to be alone")
	}
	q.takeBack(p)
	// One slot came free, so at most one place can be granted: before this
	// call nobody could be (third invariant).
	if woken := q.seclude(); woken != nil {
		return woken
	}
	woken := q.grantNext(now)
	q.noteQuiet()
	return woken
}

// Seclude says that holder p wants to be alone: nobody is granted a slot from now
// on, and p is alone when every other holder has gone or wants to be alone too. It
// returns the place that is alone now and does not know it yet: p itself, or the
// first in the list, to be woken. If that is not p, a later Release or Include
// returns p. End the wish with Include, whether or not it came true.
func (q *queue) Seclude(p *place) *place {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seclusion = append(q.seclusion, p)
	return q.seclude()
}

// Alone reports whether p is alone.
func (q *queue) Alone(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.alone && q.seclusion[0] == p
}

// Include ends p's wish to be alone; p goes on as an ordinary holder. It returns
// the places to wake.
func (q *queue) Include(p *place, now time.Time) []*place {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.seclusion, p)
	if i == 0 {
		q.alone = false
	}
	q.seclusion = slices.Delete(q.seclusion, i, i+1)
	if woken := q.seclude(); woken != nil {
		return []*place{woken}
	}
	return q.grantAll(now)
}

// Resize sets the number of slots and the longest line, at once. More slots admit
// waiters now, returned to be woken; fewer let the holders finish. A shorter line
// sends nobody away.
func (q *queue) Resize(limit, maxWaiting int, now time.Time) []*place {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit, q.maxWaiting = limit, maxWaiting
	for len(q.slots) <= limit {
		q.slots = append(q.slots, slot{})
	}
	q.freeHead, q.freeTail = 0, 0
	for i := 1; i <= limit; i++ {
		if q.slots[i].holder == nil {
			q.free(i)
		}
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

// Close refuses all who come from now on and turns away those in line, returned
// to be woken. Holders stay.
func (q *queue) Close() []*place {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	var turnedAway []*place
	for p := q.head; p != nil; p = q.head {
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

// queueStats is one moment of a queue, all figures of the same instant.
type queueStats struct {
	Slots   int
	Held    int
	Waiting int
	Paused  bool
	Oldest  time.Time // when the head of the line joined; zero if the line is empty
	Total   totals
}

// Stats returns the figures. It is O(1).
func (q *queue) Stats() queueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats()
}

// Snapshot returns copies of the places of all holders, by slot, and of all
// waiters, in line order, with the figures of the same instant.
func (q *queue) Snapshot() (stats queueStats, holders, waiters []place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	holders, waiters = make([]place, 0, q.held), make([]place, 0, q.waiting)
	for _, s := range q.slots {
		if s.holder != nil {
			holders = append(holders, *s.holder)
		}
	}
	for p := q.head; p != nil; p = p.next {
		waiters = append(waiters, *p)
	}
	return q.stats(), holders, waiters
}

// All below is called with the mutex held.

func (q *queue) stats() queueStats {
	s := queueStats{Slots: q.limit, Held: q.held, Waiting: q.waiting, Paused: q.paused, Total: q.total}
	if q.head != nil {
		s.Oldest = q.head.joined
	}
	return s
}

// admitting reports whether a slot may be granted now.
func (q *queue) admitting() bool {
	return q.held < q.limit && !q.paused && len(q.seclusion) == 0
}

func (q *queue) grant(p *place, now time.Time) {
	i := q.freeHead
	if q.freeHead = q.slots[i].nextFree; q.freeHead == 0 {
		q.freeTail = 0
	}
	q.slots[i] = slot{holder: p}
	q.held++
	q.total.Granted++
	p.state, p.slot, p.held, p.number = placeHolding, i, now, q.total.Granted
}

func (q *queue) grantNext(now time.Time) *place {
	p := q.head
	if p == nil || !q.admitting() {
		return nil
	}
	q.unlink(p)
	q.grant(p, now)
	return p
}

func (q *queue) grantAll(now time.Time) (granted []*place) {
	for p := q.grantNext(now); p != nil; p = q.grantNext(now) {
		granted = append(granted, p)
	}
	return granted
}

// takeBack frees p's slot. A slot above a lowered limit is not handed out again.
func (q *queue) takeBack(p *place) {
	i := p.slot
	q.slots[i].holder = nil
	q.held--
	p.state, p.slot = placeGone, 0
	if i <= q.limit {
		q.free(i)
	}
}

func (q *queue) free(i int) {
	q.slots[i].nextFree = 0
	if q.freeTail == 0 {
		q.freeHead = i
	} else {
		q.slots[q.freeTail].nextFree = i
	}
	q.freeTail = i
}

func (q *queue) refuse(p *place, err error) error {
	p.state = placeGone
	q.total.Refused++
	return err
}

func (q *queue) append(p *place) {
	p.state = placeWaiting
	if p.prev = q.tail; p.prev == nil {
		q.head = p
	} else {
		p.prev.next = p
	}
	q.tail = p
	q.waiting++
}

func (q *queue) unlink(p *place) {
	if p.prev == nil {
		q.head = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		q.tail = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
	q.waiting--
}

// seclude makes the first in the seclusion list alone if it can be, and returns it
// if that is news to it.
func (q *queue) seclude() *place {
	if q.alone || len(q.seclusion) == 0 || q.held > len(q.seclusion) {
		return nil
	}
	q.alone = true
	return q.seclusion[0]
}

func (q *queue) noteQuiet() {
	if q.quiet != nil && q.held == 0 && q.waiting == 0 {
		close(q.quiet)
		q.quiet = nil
	}
}
