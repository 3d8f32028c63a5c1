// Package record keeps the history of a lock: its last events and waits, how its connections have
// ended, and the counts of its metrics.
package record

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Record is the history of one lock. It lives as long as the lock, across reloads.
type Record struct {
	*metrics
	ended [len(status.Outcomes)]atomic.Uint64 // by outcome

	mu       sync.Mutex
	waits    [keptWaits]time.Duration // a ring: the wait of the nth admitted connection is at n%keptWaits
	admitted uint64
	events   []status.Event // the newest last
}

const (
	keptWaits  = 256
	keptEvents = 50

	mergeLast   = 8                // a new event may merge with one of so many last events,
	mergeWithin = 10 * time.Second // if that is not older than this
)

// New returns an empty history.
func New() *Record { return &Record{metrics: newMetrics()} }

// CountEnd counts a connection that has ended. outcome must be one of status.Outcomes.
func (r *Record) CountEnd(outcome string) {
	r.ended[slices.Index(status.Outcomes[:], outcome)].Add(1)
}

// Ended returns how many connections have ended with the outcome status.Outcomes[i].
func (r *Record) Ended(i int) uint64 { return r.ended[i].Load() }

// ObserveWait records the time in line of a connection that was granted a slot.
func (r *Record) ObserveWait(d time.Duration) {
	r.wait.Observe(d.Seconds())
	r.mu.Lock()
	r.waits[r.admitted%keptWaits] = d
	r.admitted++
	r.mu.Unlock()
}

// WaitsSince returns the number of connections that were granted a slot so far, and the times in
// line of those after the first n, or of the last keptWaits of them.
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

// Waits returns percentiles of the times in line of the last connections that were granted a slot.
func (r *Record) Waits() status.Waits {
	waits, _ := r.WaitsSince(0)
	if len(waits) == 0 {
		return status.Waits{}
	}
	slices.Sort(waits)
	return status.Waits{
		Count:      len(waits),
		P50Seconds: Percentile(waits, 50),
		P90Seconds: Percentile(waits, 90),
		P99Seconds: Percentile(waits, 99),
		MaxSeconds: Percentile(waits, 100),
	}
}

// Percentile returns the pth percentile in seconds: the smallest value that p percent do not
// exceed. There must be at least one value, and p is 1 to 100.
func Percentile(sorted []time.Duration, p int) float64 {
	return sorted[(len(sorted)*p+99)/100-1].Seconds()
}

// KeepEvent keeps e. If one of the last events is like e and only seconds old, the two become one
// event that counts both. Otherwise a flood of one kind would push all other events out.
func (r *Record) KeepEvent(e status.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := len(r.events) - 1; n >= max(0, len(r.events)-mergeLast); n-- {
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

// leastMissed returns the index of the oldest event of the most frequent kind. So events that come
// again and again, however slowly, never push a rare one out.
func (r *Record) leastMissed() int {
	kinds := make(map[string]int)
	most := 0
	for _, e := range r.events {
		kinds[e.Event]++
		most = max(most, kinds[e.Event])
	}
	return slices.IndexFunc(r.events, func(e status.Event) bool { return kinds[e.Event] == most })
}

// Events returns the kept events, the newest first.
func (r *Record) Events() []status.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := append([]status.Event{}, r.events...)
	slices.Reverse(events)
	return events
}

// merge makes e stand for both events. before is like e and older.
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

// alike reports whether two events differ only in time and connection.
func alike(e, other *status.Event) bool {
	return e.Event == other.Event && e.Reason == other.Reason && e.Slot == other.Slot && e.Moment == other.Moment && e.Error == other.Error
}
