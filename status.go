package tcplock

import "time"

// What a lock looks like at one moment: what the admin API answers, the status page
// draws and the commands print. Field names are stable. Times are RFC 3339, durations
// numbers of seconds.

// LockStatus is one lock at one moment.
type LockStatus struct {
	Name string    `json:"name"`
	Now  time.Time `json:"now"` // when it looked like this

	Slots             int     `json:"slots"`                 // how many connections may be at the service at once
	Held              int     `json:"held"`                  // slots with a holder; more than slots for a while after they were lowered
	Waiting           int     `json:"waiting"`               // connections in line
	MaxWaiting        *int    `json:"max_waiting,omitempty"` // the longest line; absent: no limit of its own
	OldestWaitSeconds float64 `json:"oldest_wait_seconds"`   // how long the one in line that came first has been there; 0: nobody waits
	LeftOver          int     `json:"left_over"`             // connections that lost their slot and still hang at the service

	Paused    *PauseStatus `json:"paused,omitempty"`    // absent: not paused
	Exclusive bool         `json:"exclusive,omitempty"` // nobody is admitted, because hooks run alone, or wait for that

	Connections map[string]uint64 `json:"connections"` // how many have ended, by outcome, since the lock exists; all outcomes are there
	Waits       WaitStatus        `json:"waits"`

	Holders []ConnectionStatus `json:"holders"` // by slot
	Waiters []ConnectionStatus `json:"waiters"` // in the order in which they go; the first ones only, if there are many
	Workers []WorkerStatus     `json:"workers,omitempty"`
	Events  []Event            `json:"events"` // the last ones, the newest first
}

// PauseStatus is a pause: nobody is admitted, holders stay, the line grows.
type PauseStatus struct {
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until,omitempty"` // when it ends by itself; absent: when somebody resumes
}

// WaitStatus is how long the last connections that got a slot stood in line before.
type WaitStatus struct {
	Count      int     `json:"count"` // how many connections the figures are of, at most 256
	P50Seconds float64 `json:"p50_seconds"`
	P90Seconds float64 `json:"p90_seconds"`
	P99Seconds float64 `json:"p99_seconds"`
	MaxSeconds float64 `json:"max_seconds"`
}

// ConnectionStatus is one holder or waiter.
type ConnectionStatus struct {
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
	stateWaiting    = "waiting"
	stateActivating = "activating"
	stateConnected  = "connected"
	stateEnding     = "ending"
)

// WorkerStatus is what stands behind one slot.
type WorkerStatus struct {
	Slot    int            `json:"slot"`
	Address string         `json:"address,omitempty"`
	State   string         `json:"state"` // up, down (it could not be reached), removed (it finishes its holder), or unready (its process is)
	Process *ProcessStatus `json:"process,omitempty"`
}

// The states of a worker.
const (
	workerUp      = "up"
	workerUnready = "unready"
	workerRemoved = "removed"
	workerOut     = "down"
)

// ProcessStatus is a process that the lock runs.
type ProcessStatus struct {
	State       string         `json:"state"` // stopped, starting, ready, stopping, backing off
	Since       time.Time      `json:"since"`
	PID         int            `json:"pid,omitempty"`
	Connections int            `json:"connections"`           // that it has served
	Due         string         `json:"due,omitempty"`         // why it is restarted when its holder is gone
	Restarts    map[string]int `json:"restarts"`              // by reason
	LastReason  string         `json:"last_reason,omitempty"` // of the last restart or stop
	Failed      string         `json:"failed,omitempty"`      // why it could not start or keep running; absent when it is ready
}

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
	Count      int       `json:"count,omitempty"` // how many like this one came in a row, if more than 1; the rest is of the last
}
