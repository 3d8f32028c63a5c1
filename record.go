package tcplock

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The outcomes of a connection: how it ended. They are the label "outcome" of the
// metrics, the field of the log, and the values of {l4.tcplock.reason}.
const (
	served        = "served"         // the next handler has come to its end
	refusedFull   = "refused_full"   // no place in line
	refusedPaused = "refused_paused" // no place in line, and the lock is paused
	waitTimeout   = "wait_timeout"   // wait_timeout was over
	holdTimeout   = "hold_timeout"   // hold_timeout was over
	clientGone    = "client_gone"    // the client left before it reached the service
	hookFailed    = "hook_failed"    // an activate hook failed
	serviceError  = "service_error"  // the next handler has failed, as when the service is down
	kicked        = "kicked"         // an operator threw it out
	shutdown      = "shutdown"       // Caddy is shutting down

	// Not an end: the worker could not be reached, and the connection is back in line.
	workerDown = "worker_down"
)

var outcomes = [...]string{served, refusedFull, refusedPaused, waitTimeout, holdTimeout, clientGone, hookFailed, serviceError, kicked, shutdown}

// record is what a lock remembers of its past, for those who look at it. It lives as long
// as the lock, across reloads.
type record struct {
	*metrics
	ended [len(outcomes)]atomic.Uint64

	mu       sync.Mutex
	waits    [keptWaits]time.Duration // of the last that were admitted, by their number
	admitted uint64
	events   []Event // the newest last
}

const (
	keptWaits  = 256
	keptEvents = 50
)

func (r *record) noteEnd(outcome string) {
	r.ended[slices.Index(outcomes[:], outcome)].Add(1)
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

// noteEvent keeps e. One that is like the last one counts with it, so that a flood of one
// kind does not wash away all others; and since clients can be refused for two reasons by
// turns, a refusal counts with one like it that only refusals have come after.
func (r *record) noteEvent(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.events) - 1; i >= 0; i-- {
		if before := r.events[i]; before.alike(&e) {
			e.Count = max(1, before.Count) + 1
			r.events = slices.Delete(r.events, i, i+1)
			break
		}
		if e.Event != eventRefused || r.events[i].Event != eventRefused {
			break
		}
	}
	if len(r.events) == keptEvents {
		r.events = slices.Delete(r.events, 0, 1)
	}
	r.events = append(r.events, e)
}

// lastEvents returns them, the newest first.
func (r *record) lastEvents() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := append([]Event{}, r.events...)
	slices.Reverse(events)
	return events
}
