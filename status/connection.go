package status

import "time"

// The outcomes of a connection: how it ended. They are the values of the label "outcome" in the
// metrics, of the field in the log, and of {l4.tcplock.reason}.
const (
	Served        = "served"         // it came to its end at the service
	RefusedFull   = "refused_full"   // the line was full
	RefusedPaused = "refused_paused" // the line was full, and the lock was paused
	WaitTimeout   = "wait_timeout"   // wait_timeout was over
	HoldTimeout   = "hold_timeout"   // hold_timeout was over
	ClientGone    = "client_gone"    // the client left before it reached the service
	HookFailed    = "hook_failed"    // an activate hook failed
	ServiceError  = "service_error"  // the service broke it, or the next handler failed
	Kicked        = "kicked"         // an operator ended it
	WorkerDown    = "worker_down"    // the service could not be reached for too long
	Shutdown      = "shutdown"       // Caddy is shutting down
)

// Outcomes has all outcomes, each once.
var Outcomes = [...]string{Served, RefusedFull, RefusedPaused, WaitTimeout, WorkerDown, HoldTimeout, ClientGone, HookFailed, ServiceError, Kicked, Shutdown}

// The outcomes that the status page and the commands add up to one figure. Refused: the lock kept
// the connection from the service. Failed: the connection had a slot and ended badly. Gone: the
// client or an operator ended it.
var (
	RefusedOutcomes = []string{RefusedFull, RefusedPaused, WaitTimeout, WorkerDown, HookFailed, Shutdown}
	FailedOutcomes  = []string{HoldTimeout, ServiceError}
	GoneOutcomes    = []string{ClientGone, Kicked}
)

// Connection is one holder or waiter.
type Connection struct {
	ID            uint64    `json:"id"`                 // numbers the connections of this lock, from 1
	Client        string    `json:"client"`             // address, or the network if the address is not an IP and a port
	State         string    `json:"state"`              // see StateWaiting and the following
	Since         time.Time `json:"since"`              // holders: when it got its slot; waiters: when it came
	Position      int       `json:"position,omitempty"` // waiters: from 1
	Priority      int       `json:"priority,omitempty"`
	WaitedSeconds float64   `json:"waited_seconds"` // in line, until now or until it got its slot
	Slot          int       `json:"slot,omitempty"` // holders: from 1
	Worker        string    `json:"worker,omitempty"`

	ConnectSeconds float64 `json:"connect_seconds,omitempty"` // how long tcplock took to connect to the service; absent: it has not, or proxy does

	BytesIn  int64 `json:"bytes_in"`  // from the client
	BytesOut int64 `json:"bytes_out"` // to the client
}

// The states of a connection.
const (
	StateWaiting    = "waiting"    // it is in line
	StateActivating = "activating" // its activate hooks run
	StateConnected  = "connected"  // it was passed to the next handler
	StateEnding     = "ending"     // its slot is about to come free
)
