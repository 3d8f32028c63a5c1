package tcplock

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// listing answers requests for what locks look like. A look stops the line of a lock for a
// moment, and its JSON may have megabytes. So there is one look at a time, however many
// ask: those that come while one is under way share the next one. An answer is never
// older than its request, so that it shows what the same client has just done.
type listing struct {
	mu   sync.Mutex
	next map[listed]*answerToAll // those whose look has not begun yet

	looking sync.Mutex // held over a look
}

var listings = listing{next: make(map[listed]*answerToAll)}

// listed is what is asked for: one lock, or all without a name, with so many waiters each.
type listed struct {
	lock    *lock
	waiters int
	pid     int // to be told with the answer; 0, as on the status page: none
}

type answerToAll struct {
	ready chan struct{} // closed when json and err are there
	json  []byte
	err   error
}

// answer returns the JSON of what is asked for, which all who ask at the same time share.
func (l *listing) answer(what listed) ([]byte, error) {
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
	l.looking.Lock()
	defer l.looking.Unlock()
	l.mu.Lock()
	delete(l.next, what) // a request that comes from now on has to get a later look
	l.mu.Unlock()
	a.look(what)
	return a.json, a.err
}

func (a *answerToAll) look(what listed) {
	defer close(a.ready)
	defer func() {
		if r := recover(); r != nil { // one request's trouble must not be that of all later ones
			a.err = fmt.Errorf("panic while looking at the locks: %v\n%s", r, debug.Stack())
		}
	}()
	var seen any
	if what.lock != nil {
		status := what.lock.status(what.waiters)
		status.PID = what.pid
		seen = status
	} else {
		statuses := lockStatuses(what.waiters)
		for i := range statuses {
			statuses[i].PID = what.pid
		}
		seen = struct {
			Locks []status.Lock `json:"locks"`
			PID   int           `json:"pid,omitempty"`
		}{statuses, what.pid}
	}
	a.json, a.err = json.Marshal(seen)
	a.json = append(a.json, '\n')
}
