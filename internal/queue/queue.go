// Package queue is a FIFO semaphore: it decides which waiter gets a slot, and when.
//
// One mutex guards everything in it. A connection that wants a slot brings a [Waiter], which
// walks through these states:
//
//	                                   BeginExclusive
//	               Requeue             ┌───────▶ exclusive
//	             ┌───────────────────┐ │ ┌────── EndExclusive
//	             ▼                   │ │ ▼
//	new ──Join──▶ waiting ──────────▶ holding ──Release──▶ gone
//	 │               └──Leave, Expel, Close───────────────▲
//	 ├──Join: a slot is free ────────────┘, refused ──────┤
//	 └──BeginExclusive, TryExclusive ──▶ exclusive ───────┘
//	                                     (no slot)  EndExclusive
//
// Three rules say what may move a waiter:
//
//   - waiting → holding: the operation that makes a slot available (Release, Requeue, In, InAll,
//     Set, Resume, EndExclusive) also grants it, in the same hold of the mutex. There is no moment in
//     which a slot may be granted and a waiter is in line for it. So a new connection cannot
//     overtake the line, and no wake-up can be missed.
//   - waiting → gone: Leave, Expel and Close. When Leave comes in the same instant as a
//     grant, the grant wins: Leave returns false, the waiter holds a slot, and its owner
//     must Release it.
//   - All other moves are the owner's. A move that the state does not allow is a bug of the
//     caller. It could make a slot that does not exist, so it panics.
//
// The queue calls nothing. An operation that grants slots or turns waiters away returns these
// waiters, and the caller wakes their owners after the mutex is free again. The queue reads no
// clock either: the caller says what time it is.
//
// Invariants, whenever the mutex is free:
//
//	held = the number of slots with a holder
//	held <= limit, unless the limit was lowered and its holders have not finished yet
//	a waiter is in line  =>  no slot is free, or held >= limit, or the queue is paused,
//	                         or all slots are out of service, or exclusive access has begun
//
// The line has every waiter except those that stand aside, because their client held as many
// slots as it may when their turn came: see line.go.
//
// Join, Leave and Release are O(1), however long the line is.
package queue

import (
	"errors"
	"sync"
	"time"
)

// Why Join refuses a waiter.
var (
	ErrFull       = errors.New("line is full")
	ErrFullPaused = errors.New("line is full, the lock is paused")
	ErrClientFull = errors.New("line is full for this client")
	ErrClosed     = errors.New("lock is shutting down")
)

// Unlimited as Bounds.MaxWaiting means that the queue sets no limit to the line.
const Unlimited = -1

// State is how far a waiter has come.
type State uint8

const (
	Unused    State = iota // new
	Waiting                // in line, or aside
	Holding                // a slot
	Exclusive              // has begun exclusive access, with a slot or without
	Gone                   // has left, or was turned away, or has released its slot
)

// Waiter is one connection's way through a queue: it waits, and then holds a slot. The zero
// value is ready for Join, and is used once. The queue's mutex guards all fields: Load and
// Snapshot return copies. The caller sets the first four before Join. The queue carries Owner
// and never looks at it.
type Waiter struct {
	Owner    any
	Client   ClientKey // for the bounds of each client; zero: no client, no bounds
	Priority int       // a higher one goes first
	Arrival  uint64    // its place in the order of arrival; 0: behind all that have joined before

	State    State
	Slot     int           // from 1 while it holds one, else 0
	Ahead    int           // how many were waiting when it joined, if it had to wait
	Number   uint64        // of its grant: the queue numbers grants from 1
	Joined   time.Time     // when it joined
	Waited   time.Duration // its time in line before it was granted its slot
	Apart    time.Duration // the part of the time since it joined that is not time in line, see Requeue
	ID       uint64        // order of joining, from 1; never changes after that
	Expelled bool          // it is gone because of Expel

	atService bool // exclusive, but its connection is still at the service
	links
}

// links tie a waiter to others.
type links struct {
	from       *client // nil: clients have no bounds
	prev, next *Waiter // in its list
}

// Bounds are what a queue keeps to.
type Bounds struct {
	Limit            int           // slots; after it was lowered, held exceeds it until holders finish
	MaxWaiting       int           // how many may wait, or Unlimited
	PerClient        int           // how many slots one client may hold, 0: no bound
	WaitingPerClient int           // how many waiters one client may have, 0: no bound
	PriorityAge      time.Duration // how long a waiter must wait to gain 1 priority point, 0: it gains none
}

// Queue is a FIFO semaphore. Use New.
type Queue struct {
	mu sync.Mutex

	bounds Bounds
	paused bool
	closed bool

	slotTable

	line    line
	waiting int // in line and aside
	clientTable
	arrived uint64 // the last ID
	latest  uint64 // the highest Arrival
	grants  uint64 // the last Number

	// The waiters that have begun exclusive access, in the order in which they asked. While
	// there is one, no slot is granted. It is exclusive once every other holder has gone or is in
	// this list too: two that waited for each other's end would wait for ever.
	exclusives []*Waiter

	vacant chan struct{} // closed when there is no holder and no exclusive access; made by Vacant

	total Totals // without Joined, which follows from the others
}

// New returns an empty queue.
func New(b Bounds) *Queue {
	q := new(Queue)
	q.Set(b, time.Time{})
	return q
}

// Join asks for a slot. It returns true if w holds one now. It returns false and no error if w is
// in line, and ErrFull, ErrFullPaused, ErrClientFull or ErrClosed if w was refused.
func (q *Queue) Join(w *Waiter, now time.Time) (holds bool, err error) {
	q.mu.Lock() // unlocked by hand, here and in Release: a defer costs a tenth of the whole
	if w.State != Unused {
		q.mu.Unlock()
		w.mustBe(Unused)
	}
	q.arrived++
	w.Joined, w.ID = now, q.arrived
	q.latest = max(q.latest, w.Arrival)
	if w.Arrival == 0 {
		w.Arrival = q.latest // and its ID is higher
	}
	if q.bounds.countClients() {
		q.attachClient(w)
	}
	full := q.bounds.MaxWaiting != Unlimited && q.waiting >= q.bounds.MaxWaiting
	switch holds = q.admitting() && !q.atLimit(w.from); {
	case holds: // and no waiter is in line: third invariant
		q.grant(w)
	case q.closed:
		err = q.refuse(w, ErrClosed)
	case full && q.paused:
		err = q.refuse(w, ErrFullPaused)
	case full:
		err = q.refuse(w, ErrFull)
	case w.from != nil && q.bounds.WaitingPerClient > 0 && w.from.waiting >= q.bounds.WaitingPerClient:
		err = q.refuse(w, ErrClientFull)
	default:
		w.Ahead = q.waiting
		q.enqueue(w)
	}
	q.mu.Unlock()
	return holds, err
}

// Leave takes w out of the line. It returns false if w does not wait any more: then w holds a
// slot, has left, or was turned away (see Load).
func (q *Queue) Leave(w *Waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.State != Waiting {
		return false
	}
	q.leave(w)
	return true
}

// Load returns w as it is now.
func (q *Queue) Load(w *Waiter) Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	return *w
}

// Release gives w's slot back. It returns the waiter to wake, if any: the one that was granted the
// slot, or the one that is exclusive now. A waiter that has begun exclusive access must end it
// first.
func (q *Queue) Release(w *Waiter, now time.Time) *Waiter {
	q.mu.Lock()
	if w.State != Holding {
		q.mu.Unlock()
		w.mustBe(Holding)
	}
	q.vacate(w)
	w.State = Gone
	q.detachClient(w)
	var woken *Waiter
	if q.waiting > 0 || len(q.exclusives) > 0 {
		woken = q.next(now)
	}
	q.signalVacant()
	q.mu.Unlock()
	return woken
}

// Requeue takes w's slot away and puts w back in line, where it stood. The time with the slot
// counts as time in line, except apart, which is the sum over all slots that w has had. Requeue
// returns the waiter to wake, if any, which may be w.
func (q *Queue) Requeue(w *Waiter, now time.Time, apart time.Duration) *Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.mustBe(Holding)
	w.Apart = apart
	q.total.Granted--
	if q.closed {
		q.vacate(w)
		_ = q.refuse(w, ErrClosed)
	} else {
		q.enqueue(w) // before its slot is free: then w, too, may come back from aside for it
		q.vacate(w)
	}
	woken := q.next(now)
	q.signalVacant()
	return woken
}

// Set sets the bounds at once. If there are more slots now, Set grants them and returns the
// waiters to wake; if there are fewer, the holders finish. A shorter line sends no waiter away.
func (q *Queue) Set(b Bounds, now time.Time) []*Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.bounds
	q.bounds = b
	q.grow(b.Limit)
	q.setFree()
	for i := before.Limit + 1; i <= b.Limit; i++ {
		q.free(i)
	}
	if before.countClients() != b.countClients() ||
		b.countClients() && (before.PerClient != b.PerClient || before.PriorityAge != b.PriorityAge) {
		q.recountClients() // other waiters stand aside now; it sorts the line
	}
	return q.grantAll(now)
}

// Pause stops granting slots. Holders stay, the line grows.
func (q *Queue) Pause() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = true
}

// Resume ends a pause and returns the waiters to wake.
func (q *Queue) Resume(now time.Time) []*Waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = false
	return q.grantAll(now)
}

// Close refuses every Join from now on, and turns the line away. It returns the waiters that it
// has turned away, to be woken. Holders stay.
func (q *Queue) Close() (turnedAway []*Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	turnedAway = q.waiters(q.waiting)
	for _, w := range turnedAway {
		q.dequeue(w)
		_ = q.refuse(w, ErrClosed)
	}
	return turnedAway
}

// Vacant returns a channel that is closed once there is no holder and no exclusive access.
func (q *Queue) Vacant() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.vacant == nil {
		q.vacant = make(chan struct{})
	}
	vacant := q.vacant
	q.signalVacant()
	return vacant
}

// The mutex is held in all functions below.

// admitting reports whether a slot may be granted now.
func (q *Queue) admitting() bool {
	return q.slots[0].nextFree != 0 && q.held < q.bounds.Limit && !q.paused && !q.allOut && !q.closed && len(q.exclusives) == 0
}

// grant gives the slot that is free longest to w.
func (q *Queue) grant(w *Waiter) {
	i := q.takeFree()
	q.slots[i].holder = w
	q.held++
	w.State, w.Slot = Holding, i
	if w.from != nil {
		w.from.held++
	}
	q.total.Granted++
	q.grants++
	w.Number = q.grants
}

// leave takes w, which waits, out of the line for good.
func (q *Queue) leave(w *Waiter) {
	q.dequeue(w)
	w.State = Gone
	q.total.Left++
	q.detachClient(w)
}

// vacate takes w's slot away.
func (q *Queue) vacate(w *Waiter) {
	i := w.Slot
	q.slots[i].holder, w.Slot = nil, 0
	q.held--
	q.free(i)
	if c := w.from; c != nil {
		c.held--
		q.readmit(c)
	}
}

// next returns the waiter that goes on after a holder has gone, nil if none does.
func (q *Queue) next(now time.Time) *Waiter {
	if len(q.exclusives) > 0 {
		return q.exclusive()
	}
	// At most one can be granted: one slot came free, and before that there was no slot to
	// grant (third invariant).
	return q.grantNext(now)
}

// grantNext grants a slot to the next waiter that may have one. It returns nil if there is no
// such waiter or no such slot.
func (q *Queue) grantNext(now time.Time) *Waiter {
	for q.admitting() {
		w := q.line.first(q.bounds.PriorityAge)
		if w == nil {
			return nil
		}
		if q.atLimit(w.from) {
			q.setAside(w)
			continue
		}
		q.unlink(w)
		q.grant(w)
		w.Waited = max(0, now.Sub(w.Joined)-w.Apart) // w may have joined just after the caller read the clock
		return w
	}
	return nil
}

func (q *Queue) grantAll(now time.Time) (granted []*Waiter) {
	for w := q.grantNext(now); w != nil; w = q.grantNext(now) {
		granted = append(granted, w)
	}
	return granted
}

func (q *Queue) refuse(w *Waiter, err error) error {
	w.State = Gone
	q.total.Refused++
	q.detachClient(w)
	return err
}

func (q *Queue) signalVacant() {
	if q.vacant != nil && q.held == 0 && len(q.exclusives) == 0 {
		close(q.vacant)
		q.vacant = nil
	}
}

func (w *Waiter) mustBe(state State) {
	if w.State != state {
		names := [...]string{"new", "waiting", "holding", "exclusive", "gone"}
		panic("tcplock: found a waiter that is " + names[w.State] + ", expected " + names[state])
	}
}
