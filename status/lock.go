// Package status has the words and the JSON of the admin API, the status page, the commands, the
// events and the log: what a lock, its connections, workers and processes look like at one moment.
package status

import "time"

// Lock is one lock at one moment.
type Lock struct {
	Name string    `json:"name"`
	Now  time.Time `json:"now"` // when it looked like this

	Slots             int     `json:"slots"`                 // how many connections may be at the service at once
	Held              int     `json:"held"`                  // slots with a holder; more than slots for a while after they were lowered
	Waiting           int     `json:"waiting"`               // connections in line
	MaxWaiting        *int    `json:"max_waiting,omitempty"` // the longest line; absent: no limit of its own
	OldestWaitSeconds float64 `json:"oldest_wait_seconds"`   // how long the one in line that came first has been there; 0: nobody waits
	LeftOver          int     `json:"left_over"`             // connections that lost their slot and still hang at the service

	Paused    *Pause `json:"paused,omitempty"`    // absent: not paused
	Exclusive bool   `json:"exclusive,omitempty"` // nobody is admitted, because hooks run alone, or wait for that

	Failing *Failing `json:"failing,omitempty"` // absent: the last activate hooks went well, or there are none

	Connections map[string]uint64 `json:"connections"` // how many have ended, by outcome, since the lock exists; all outcomes are there
	Waits       Waits             `json:"waits"`

	Holders []Connection `json:"holders"` // by slot
	Waiters []Connection `json:"waiters"` // in the order in which they go; the first ones only, if there are many
	Workers []Worker     `json:"workers,omitempty"`
	Events  []Event      `json:"events"` // the last ones, the newest first

	PID int `json:"pid,omitempty"` // of the Caddy that answers; in the admin API only
}

// Pause is a pause: nobody is admitted, holders stay, the line grows.
type Pause struct {
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until,omitempty"` // when it ends by itself; absent: when somebody resumes
}

// Failing is that the activate hooks refuse connections. It ends when they go well again
// for a connection, or for an operator, and when a reload takes away the hook that failed.
type Failing struct {
	Since       time.Time `json:"since"`       // when they refused the first of them
	Connections uint64    `json:"connections"` // how many they have refused since then; at least 1
	Error       string    `json:"error"`       // why they refused the last of them: the error's first line, at most 500 bytes
}

// Waits is how long the last connections that got a slot stood in line before.
type Waits struct {
	Count      int     `json:"count"` // how many connections the figures are of, at most 256
	P50Seconds float64 `json:"p50_seconds"`
	P90Seconds float64 `json:"p90_seconds"`
	P99Seconds float64 `json:"p99_seconds"`
	MaxSeconds float64 `json:"max_seconds"`
}
