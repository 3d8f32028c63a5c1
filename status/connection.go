package status

import "time"

// The outcomes of a connection: how it ended. They are the label "outcome" of the
// metrics, the field of the log, and the values of {l4.tcplock.reason}.
const (
	Served        = "served"         // the next handler has come to its end
	RefusedFull   = "refused_full"   // no place in line
	RefusedPaused = "refused_paused" // no place in line, and the lock is paused
	WaitTimeout   = "wait_timeout"   // wait_timeout was over
	HoldTimeout   = "hold_timeout"   // hold_timeout was over
	ClientGone    = "client_gone"    // the client left before it reached the service
	HookFailed    = "hook_failed"    // an activate hook failed
	ServiceError  = "service_error"  // the next handler has failed, as when the service is down
	Kicked        = "kicked"         // an operator threw it out
	Shutdown      = "shutdown"       // Caddy is shutting down

	// Not an end: the worker could not be reached, and the connection is back in line.
	WorkerDown = "worker_down"
)

var Outcomes = [...]string{Served, RefusedFull, RefusedPaused, WaitTimeout, HoldTimeout, ClientGone, HookFailed, ServiceError, Kicked, Shutdown}

// Outcomes that people see as one figure, the same everywhere: refused are connections that the
// lock kept from the service, failed are those that ended badly with a slot, gone are those
// that a client or an operator ended.
var (
	RefusedOutcomes = []string{RefusedFull, RefusedPaused, WaitTimeout, HookFailed, Shutdown}
	FailedOutcomes  = []string{HoldTimeout, ServiceError}
	GoneOutcomes    = []string{ClientGone, Kicked}
)

// Connection is one holder or waiter.
type Connection struct {
	ID            uint64    `json:"id"` // running number of those who came to this lock
	Client        string    `json:"client"`
	State         string    `json:"state"`              // waiting, activating (its hooks run), connected, ending (its slot is on its way back)
	Since         time.Time `json:"since"`              // holders: when it got its slot; waiters: when it came
	Position      int       `json:"position,omitempty"` // waiters: from 1
	Priority      int       `json:"priority,omitempty"`
	WaitedSeconds float64   `json:"waited_seconds"` // in line, until now or until it got its slot
	Slot          int       `json:"slot,omitempty"`
	Worker        string    `json:"worker,omitempty"`
	BytesIn       int64     `json:"bytes_in"`  // from the client
	BytesOut      int64     `json:"bytes_out"` // to the client
}

// The states of a connection.
const (
	StateWaiting    = "waiting"
	StateActivating = "activating"
	StateConnected  = "connected"
	StateEnding     = "ending"
)
