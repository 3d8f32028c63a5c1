// Package record is what a lock remembers of its past: the last events and times in line, how its
// connections have ended, and what its metrics count.
package record

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Record is what a lock remembers of its past. It lives as long as the lock, across reloads.
type Record struct {
	*metrics
	ended [len(status.Outcomes)]atomic.Uint64

	mu       sync.Mutex
	waits    [keptWaits]time.Duration // of the last that were admitted, by their number
	admitted uint64
	events   []status.Event // the newest last
}

const (
	keptWaits  = 256
	keptEvents = 50

	lastFew     = 8                // of the kept events, a new one may count with one of these
	mergeWithin = 10 * time.Second // if it comes so soon after it
)

func New() *Record { return &Record{metrics: newMetrics()} }

// CountEnd counts a connection that has ended.
func (r *Record) CountEnd(outcome string) {
	r.ended[slices.Index(status.Outcomes[:], outcome)].Add(1)
}

// Ended returns how many connections have ended with the outcome status.Outcomes[i].
func (r *Record) Ended(i int) uint64 { return r.ended[i].Load() }

// ObserveWait keeps the time in line of a connection that was granted a slot.
func (r *Record) ObserveWait(d time.Duration) {
	r.wait.Observe(d.Seconds())
	r.mu.Lock()
	r.waits[r.admitted%keptWaits] = d
	r.admitted++
	r.mu.Unlock()
}

// WaitsSince returns the times in line of the connections that were granted a slot after the first
// n, or of the last keptWaits of them, and how many there were in all.
func (r *Record) WaitsSince(n uint64) (waits []time.Duration, admitted uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.admitted > keptWaits {
		n = max(n, r.admitted-keptWaits)
	}
	for ; n < r.admitted; n++ {
		waits = append(waits, r.waits[n%keptWaits])
	}
	return waits, r.admitted
}

// KeepEvent keeps e. If it is like one of the last few, which is only seconds ago, the two
// become one that counts both, so that a flood does not wash away all others.
func (r *Record) KeepEvent(e status.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := len(r.events) - 1; n >= max(0, len(r.events)-lastFew); n-- {
		if last := &r.events[n]; alike(last, &e) && e.Time.Sub(last.Time) < mergeWithin {
			merge(&e, last)
			r.events = append(slices.Delete(r.events, n, n+1), e)
			return
		}
	}
	if len(r.events) == keptEvents {
		i := r.leastMissed()
		r.events = slices.Delete(r.events, i, i+1)
	}
	r.events = append(r.events, e)
}

// leastMissed is the oldest event of the kind that there are most of. So events that come
// again and again, however slowly, never wash away a rare one.
func (r *Record) leastMissed() int {
	kinds := make(map[string]int)
	most := 0
	for _, e := range r.events {
		kinds[e.Event]++
		most = max(most, kinds[e.Event])
	}
	return slices.IndexFunc(r.events, func(e status.Event) bool { return kinds[e.Event] == most })
}

// Events returns them, the newest first.
func (r *Record) Events() []status.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := append([]status.Event{}, r.events...)
	slices.Reverse(events)
	return events
}

// merge makes e, which is like before and came after it, stand for both.
func merge(e, before *status.Event) {
	e.Count = max(1, before.Count) + 1
	e.Bytes += before.Bytes
	keepSame(&e.Connection, before.Connection)
	keepSame(&e.Client, before.Client)
	keepSame(&e.Worker, before.Worker)
	keepSame(&e.PID, before.PID)
	keepSame(&e.WaitedSeconds, before.WaitedSeconds)
	keepSame(&e.HeldSeconds, before.HeldSeconds)
}

func keepSame[T comparable](value *T, other T) {
	if *value != other {
		*value = *new(T)
	}
}

// alike reports whether two events differ only in their time and in the connection.
func alike(e, other *status.Event) bool {
	return e.Event == other.Event && e.Reason == other.Reason && e.Slot == other.Slot && e.Moment == other.Moment && e.Error == other.Error
}
