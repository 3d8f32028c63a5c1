package tcplock

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// record is what a lock remembers of its past, for those who look at it. It lives as long
// as the lock, across reloads.
type record struct {
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

func (r *record) noteEnd(outcome string) {
	r.ended[slices.Index(status.Outcomes[:], outcome)].Add(1)
}

func (r *record) noteWait(d time.Duration) {
	r.wait.Observe(d.Seconds())
	r.mu.Lock()
	r.waits[r.admitted%keptWaits] = d
	r.admitted++
	r.mu.Unlock()
}

// waitsSince returns how long those stood in line who were admitted after the first n, or
// the last keptWaits of them, and how many were admitted in all.
func (r *record) waitsSince(n uint64) (waits []time.Duration, admitted uint64) {
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

// noteEvent keeps e. If it is like one of the last few, which is only seconds ago, the two
// become one that counts both, so that a flood does not wash away all others.
func (r *record) noteEvent(e status.Event) {
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
func (r *record) leastMissed() int {
	kinds := make(map[string]int)
	most := 0
	for _, e := range r.events {
		kinds[e.Event]++
		most = max(most, kinds[e.Event])
	}
	return slices.IndexFunc(r.events, func(e status.Event) bool { return kinds[e.Event] == most })
}

// lastEvents returns them, the newest first.
func (r *record) lastEvents() []status.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := append([]status.Event{}, r.events...)
	slices.Reverse(events)
	return events
}
