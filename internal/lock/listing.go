package lock

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// listing answers requests for the status of locks. A snapshot stops the line of a lock for a
// moment, and its JSON may have megabytes. So listing takes one snapshot at a time, however
// many requests come. Requests that come meanwhile share the next snapshot. An answer is never
// older than its request, so it shows what the same client has done before.
type listing struct {
	mu   sync.Mutex
	next map[Listed]*answerToAll // the snapshots that have not begun yet

	taking sync.Mutex // held while a snapshot is taken
}

var listings = listing{next: make(map[Listed]*answerToAll)}

// StatusJSON returns the status of locks as JSON. Calls at the same time share it, so the caller must
// not change it.
func StatusJSON(what Listed) ([]byte, error) { return listings.answer(what) }

// Listed says which status a request asks for.
type Listed struct {
	Lock    *Lock // nil: all locks
	Waiters int   // at most so many of each lock
	PID     int   // goes into the answer; 0: none, as on the status page
}

// DefaultWaiters is how many waiters of a lock are listed, unless the request says how many.
const DefaultWaiters = 1000

// answerToAll is an answer that requests share.
type answerToAll struct {
	ready chan struct{} // closed when json and err are set
	json  []byte
	err   error
}

// answer returns the JSON of what is asked for. Requests that come at the same time share it.
func (l *listing) answer(what Listed) ([]byte, error) {
	l.mu.Lock()
	a, underWay := l.next[what]
	if !underWay {
		a = &answerToAll{ready: make(chan struct{})}
		l.next[what] = a
	}
	l.mu.Unlock()
	if underWay {
		<-a.ready
		return a.json, a.err
	}
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	delete(l.next, what) // a request that comes from now on must get a later snapshot
	l.mu.Unlock()
	a.take(what)
	return a.json, a.err
}

// take takes the snapshot.
func (a *answerToAll) take(what Listed) {
	defer close(a.ready)
	defer func() {
		if r := recover(); r != nil { // otherwise all later requests would wait for ever
			a.err = fmt.Errorf("panic in a snapshot of the locks: %v\n%s", r, debug.Stack())
		}
	}()
	var found any
	if what.Lock != nil {
		status := what.Lock.Status(what.Waiters)
		status.PID = what.PID
		found = status
	} else {
		statuses := lockStatuses(what.Waiters)
		for i := range statuses {
			statuses[i].PID = what.PID
		}
		found = struct {
			Locks []status.Lock `json:"locks"`
			PID   int           `json:"pid,omitempty"`
		}{statuses, what.PID}
	}
	a.json, a.err = json.Marshal(found)
	a.json = append(a.json, '\n')
}
