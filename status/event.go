package status

import "time"

// The events of a lock. Each is emitted in Caddy's events app, with EventPrefix before its name. The
// status of the lock has the last of them, but not activated and released: there is one of each per
// connection.
const (
	EventActivated = "activated" // a connection was let through to the service
	EventReleased  = "released"  // the slot of a connection has come free

	EventRefused    = "refused"     // a connection was refused
	EventTimeout    = "timeout"     // hold_timeout was over, and the client is cut
	EventIdle       = "idle"        // there was no holder and no waiter for the time of an idle hook
	EventHookFailed = "hook_failed" // a hook has failed
	EventKicked     = "kicked"      // an operator has ended a connection
	EventLeftOver   = "left_over"   // a connection lost its slot but is still open at the service
	EventDiscarded  = "discarded"   // bytes of a connection were thrown away
	EventRenamed    = "renamed"     // a config has given the lock another name
	EventPaused     = "paused"
	EventResumed    = "resumed"
	EventWorkerDown = "worker_down" // a worker could not be reached
	EventWorkerUp   = "worker_up"   // a worker could be reached again

	EventPrefix = "tcplock_"
)

// Event is one event of a lock. Fields that do not apply are absent.
type Event struct {
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Slot       int       `json:"slot,omitempty"`
	Worker     string    `json:"worker,omitempty"`
	Connection uint64    `json:"connection,omitempty"` // its ID
	Client     string    `json:"client,omitempty"`
	Moment     string    `json:"moment,omitempty"` // of a hook
	Reason     string    `json:"reason,omitempty"`
	Error      string    `json:"error,omitempty"`
	PID        int       `json:"pid,omitempty"`   // of a slot's process
	Bytes      int64     `json:"bytes,omitempty"` // that were thrown away

	WaitedSeconds float64 `json:"waited_seconds,omitempty"` // in line
	HeldSeconds   float64 `json:"held_seconds,omitempty"`   // with a slot

	// Count is how many events like this one came within seconds of each other, absent for 1.
	// Then Time is that of the last, Bytes is the sum, and a field that was not the same in all of
	// them (connection, client, worker, pid, times) is left out.
	Count int `json:"count,omitempty"`
}

// The events of a slot's process.
const (
	EventStarted   = "started"   // the process is ready, and replaces no other
	EventRestarted = "restarted" // the process is ready, and replaces another
	EventStopped   = "stopped"   // the process has ended, and none replaces it
	EventFailed    = "failed"    // the process could not start
)
