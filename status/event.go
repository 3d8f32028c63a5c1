package status

import "time"

// What happens at a lock. Caddy's events app gets it with EventPrefix, and the last
// events but the first two, which are one for each connection, are kept for those who
// look at the lock.
const (
	EventActivated = "activated" // a connection was let through to the service
	EventReleased  = "released"  // its slot has come free

	EventRefused    = "refused"     // a connection was refused
	EventTimeout    = "timeout"     // hold_timeout was over, the client is cut
	EventIdle       = "idle"        // nobody has held or waited so long that an idle hook's time has come
	EventHookFailed = "hook_failed" // a hook has failed
	EventKicked     = "kicked"      // an operator has thrown a connection out
	EventLeftOver   = "left_over"   // a connection lost its slot and still hangs at the service
	EventDiscarded  = "discarded"   // bytes of a connection were thrown away
	EventRenamed    = "renamed"     // a config has given the lock another name
	EventPaused     = "paused"
	EventResumed    = "resumed"
	EventWorkerDown = "worker_down" // a worker could not be reached
	EventWorkerUp   = "worker_up"   // it could be reached again

	EventPrefix = "tcplock_"
)

// Event is something that has happened at a lock. Caddy's events app gets it as
// tcplock_<event>.
type Event struct {
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Slot       int       `json:"slot,omitempty"`
	Worker     string    `json:"worker,omitempty"`
	Connection uint64    `json:"connection,omitempty"` // its id
	Client     string    `json:"client,omitempty"`
	Moment     string    `json:"moment,omitempty"` // of a hook
	Reason     string    `json:"reason,omitempty"`
	Error      string    `json:"error,omitempty"`
	PID        int       `json:"pid,omitempty"`   // of a slot's process
	Bytes      int64     `json:"bytes,omitempty"` // that were thrown away

	WaitedSeconds float64 `json:"waited_seconds,omitempty"` // in line
	HeldSeconds   float64 `json:"held_seconds,omitempty"`   // with a slot

	// How many like this one came within seconds of each other, if more than 1. Time is that
	// of the last, Bytes are those of all; what was not the same for all of them (connection,
	// client, worker, times) is left out.
	Count int `json:"count,omitempty"`
}

// What happened to a process.
const (
	EventStarted   = "started"   // it is ready, and takes nobody's place
	EventRestarted = "restarted" // it is ready, and takes another's place
	EventStopped   = "stopped"   // it has ended, and none takes its place
	EventFailed    = "failed"    // the start has failed
)
