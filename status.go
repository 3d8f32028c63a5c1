package tcplock

import (
	"slices"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
)

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

	Failing *FailingStatus `json:"failing,omitempty"` // absent: the last activate hooks went well, or there are none

	Connections map[string]uint64 `json:"connections"` // how many have ended, by outcome, since the lock exists; all outcomes are there
	Waits       WaitStatus        `json:"waits"`

	Holders []ConnectionStatus `json:"holders"` // by slot
	Waiters []ConnectionStatus `json:"waiters"` // in the order in which they go; the first ones only, if there are many
	Workers []WorkerStatus     `json:"workers,omitempty"`
	Events  []Event            `json:"events"` // the last ones, the newest first

	PID int `json:"pid,omitempty"` // of the Caddy that answers; in the admin API only
}

// PauseStatus is a pause: nobody is admitted, holders stay, the line grows.
type PauseStatus struct {
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until,omitempty"` // when it ends by itself; absent: when somebody resumes
}

// FailingStatus is that the activate hooks refuse connections. It ends when they go well again
// for a connection, or for an operator, and when a reload takes away the hook that failed.
type FailingStatus struct {
	Since       time.Time `json:"since"`       // when they refused the first of them
	Connections uint64    `json:"connections"` // how many they have refused since then; at least 1
	Error       string    `json:"error"`       // why they refused the last of them: the error's first line, at most 500 bytes
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
	State   string         `json:"state"` // up, stopped (its process is, until a connection comes), down (it could not be reached), removed (it finishes its holder), or unready (its process is)
	Process *ProcessStatus `json:"process,omitempty"`
}

// The states of a worker.
const (
	workerUp      = "up"
	workerStopped = "stopped"
	workerUnready = "unready"
	workerRemoved = "removed"
	workerOut     = "down"
)

// ProcessStatus is a process that the lock runs.
type ProcessStatus struct {
	State       string         `json:"state"` // stopped, starting, ready, stopping, backing off
	Since       time.Time      `json:"since"`
	PID         int            `json:"pid,omitempty"`
	Connections int            `json:"connections"`           // that have reached it
	Due         string         `json:"due,omitempty"`         // why it is restarted when its holder is gone
	Restarts    map[string]int `json:"restarts"`              // by reason
	LastReason  string         `json:"last_reason,omitempty"` // of the last restart or stop
	Failed      string         `json:"failed,omitempty"`      // why it could not start or keep running, until one is ready
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
	PID        int       `json:"pid,omitempty"`   // of a slot's process
	Bytes      int64     `json:"bytes,omitempty"` // that were thrown away

	WaitedSeconds float64 `json:"waited_seconds,omitempty"` // in line
	HeldSeconds   float64 `json:"held_seconds,omitempty"`   // with a slot

	// How many like this one came within seconds of each other, if more than 1. Time is that
	// of the last, Bytes are those of all; what was not the same for all of them (connection,
	// client, worker, times) is left out.
	Count int `json:"count,omitempty"`
}

// merge makes e, which is like before and came after it, stand for both.
func (e *Event) merge(before *Event) {
	e.Count = max(1, before.Count) + 1
	e.Bytes += before.Bytes
	keepSame(&e.Connection, before.Connection)
	keepSame(&e.Client, before.Client)
	keepSame(&e.Worker, before.Worker)
	keepSame(&e.PID, before.PID)
	keepSame(&e.WaitedSeconds, before.WaitedSeconds)
	keepSame(&e.HeldSeconds, before.HeldSeconds)
}

func keepSame[T comparable](value *T, other T) {
	if *value != other {
		*value = *new(T)
	}
}

// alike reports whether two are the same but for when and to whom it happened.
func (e *Event) alike(other *Event) bool {
	return e.Event == other.Event && e.Reason == other.Reason && e.Slot == other.Slot && e.Moment == other.Moment && e.Error == other.Error
}

// lockStatuses returns the status of all locks, by name, each with at most so many waiters.
func lockStatuses(most int) []LockStatus {
	all := []LockStatus{} // not null in JSON
	for _, l := range locksInForce() {
		all = append(all, l.status(most))
	}
	return all
}

// status says what the lock looks like now, with at most so many waiters.
func (l *lock) status(most int) LockStatus {
	paused := l.pauses.status()
	stats, holders, waiters := l.queue.Snapshot(most)
	now := time.Now()
	s := LockStatus{
		Name:       l.name(),
		Now:        now,
		Slots:      l.pool.slots(),
		Held:       stats.Held,
		Waiting:    stats.Waiting,
		MaxWaiting: l.inForce.Load().settings.MaxWaiting,

		OldestWaitSeconds: stats.OldestWait(now).Seconds(),

		LeftOver:    int(l.leftOver.Load()),
		Exclusive:   stats.Exclusive,
		Failing:     l.failingStatus(now),
		Connections: make(map[string]uint64),
		Waits:       l.record.waitStatus(),
		Holders:     make([]ConnectionStatus, 0, len(holders)),
		Waiters:     make([]ConnectionStatus, 0, len(waiters)),
		Events:      l.record.lastEvents(),
	}
	if stats.Paused && paused != nil {
		s.Paused = paused
	}
	for i, outcome := range outcomes {
		s.Connections[outcome] = l.record.ended[i].Load()
	}
	for _, p := range holders {
		s.Holders = append(s.Holders, l.connectionStatus(p, now))
	}
	for i, p := range waiters {
		w := l.connectionStatus(p, now)
		w.Position = i + 1
		s.Waiters = append(s.Waiters, w)
	}
	for _, w := range l.pool.list() {
		if w == nil {
			continue
		}
		status := w.status()
		if status.State == workerRemoved && status.Process == nil &&
			!slices.ContainsFunc(holders, func(p queue.Waiter) bool { return p.Slot == w.slot }) {
			continue // it is kept in case it comes back
		}
		s.Workers = append(s.Workers, status)
	}
	return s
}

func (l *lock) connectionStatus(p queue.Waiter, now time.Time) ConnectionStatus {
	w := p.Owner.(*waiter)
	s := ConnectionStatus{
		ID:       p.ID,
		Client:   w.conn.address,
		State:    stateWaiting,
		Since:    clock.Wall(p.Joined, now),
		Priority: p.Priority,
		Slot:     p.Slot,
		BytesIn:  w.conn.traffic.in.Load(),
		BytesOut: w.conn.traffic.out.Load(),
	}
	waited := now.Sub(p.Joined) - p.Apart
	if p.State != queue.Waiting {
		waited = p.Waited
		s.State = w.state()
		s.Since = clock.Wall(p.Joined.Add(p.Apart+p.Waited), now)
		if worker := l.pool.worker(p.Slot); worker != nil {
			s.Worker = worker.address
		}
	}
	s.WaitedSeconds = max(0, waited.Seconds())
	return s
}

func (r *record) waitStatus() WaitStatus {
	waits, _ := r.waitsSince(0)
	if len(waits) == 0 {
		return WaitStatus{}
	}
	slices.Sort(waits)
	return WaitStatus{
		Count:      len(waits),
		P50Seconds: percentile(waits, 50),
		P90Seconds: percentile(waits, 90),
		P99Seconds: percentile(waits, 99),
		MaxSeconds: percentile(waits, 100),
	}
}

// percentile is the smallest of them that p of a hundred do not exceed, in seconds.
func percentile(sorted []time.Duration, p int) float64 {
	return sorted[(len(sorted)*p+99)/100-1].Seconds()
}

func (w *worker) status() WorkerStatus {
	w.mu.Lock()
	p, why := w.process, w.why
	w.mu.Unlock()
	s := WorkerStatus{Slot: w.slot, Address: w.address, State: workerUp}
	switch {
	case why&outRemoved != 0:
		s.State = workerRemoved
	case why&outProcess != 0:
		s.State = workerUnready
	case why != 0:
		s.State = workerOut
	}
	if p == nil {
		return s
	}
	process := p.snapshot()
	s.Process = &process
	switch { // the process may have changed its state since then
	case s.State == workerUp && process.State == processStopped:
		s.State = workerStopped
	case s.State == workerUp && process.State != processReady:
		s.State = workerUnready
	}
	return s
}
