// Package status defines the JSON of the admin API and the words that the API, the status page, the
// commands, the events and the log share: the state of a lock, its connections, workers and
// processes.
package status

import "time"

// DefaultName is the name of a lock whose handler has no name.
const DefaultName = "default"

// AdminPath is the path of all locks in Caddy's admin API. That of one lock has its name after it.
const AdminPath = "/tcplock/locks"

// Lock is the state of one lock at one moment.
type Lock struct {
	Name string    `json:"name"`
	Now  time.Time `json:"now"` // the moment

	Slots             int     `json:"slots"`                 // how many connections may be at the service at once
	Held              int     `json:"held"`                  // slots with a holder; more than slots for a while after they were lowered
	Waiting           int     `json:"waiting"`               // connections in line
	MaxWaiting        *int    `json:"max_waiting,omitempty"` // the limit of the line; absent: no limit
	OldestWaitSeconds float64 `json:"oldest_wait_seconds"`   // how long the oldest waiter has waited; 0: none waits
	LeftOver          int     `json:"left_over"`             // connections that lost their slot but are still open at the service

	Paused    *Pause `json:"paused,omitempty"`    // absent: not paused
	Exclusive bool   `json:"exclusive,omitempty"` // no slot is granted, because hooks run alone, or wait to

	Failing *Failing `json:"failing,omitempty"` // absent: the last activate hooks went well, or there are none

	Connections map[string]uint64 `json:"connections"` // how many have ended since the lock exists, for each of Outcomes
	Waits       Waits             `json:"waits"`

	Holders []Connection `json:"holders"` // by slot
	Waiters []Connection `json:"waiters"` // the next one first; cut if there are many
	Workers []Worker     `json:"workers,omitempty"`
	Events  []Event      `json:"events"` // the last ones, the newest first

	PID int `json:"pid,omitempty"` // of the Caddy that answers; in the admin API only
}

// Pause is a pause of a lock: no slot is granted, holders stay, the line grows.
type Pause struct {
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until,omitempty"` // when it ends by itself; absent: an operator must resume the lock
}

// Failing tells that activate hooks fail, so that connections are refused. It ends when the hooks
// succeed again, for a connection or for an operator, or when a reload removes the hook that failed.
type Failing struct {
	Since       time.Time `json:"since"`       // when the first connection was refused
	Connections uint64    `json:"connections"` // how many were refused since then; at least 1
	Error       string    `json:"error"`       // of the last one: the first line, at most 500 bytes
}

// Waits summarizes the times in line of the last connections that got a slot.
type Waits struct {
	Count      int     `json:"count"` // the number of these connections, at most 256
	P50Seconds float64 `json:"p50_seconds"`
	P90Seconds float64 `json:"p90_seconds"`
	P99Seconds float64 `json:"p99_seconds"`
	MaxSeconds float64 `json:"max_seconds"`
}
