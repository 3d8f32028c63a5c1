package lock

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// listing answers requests for the status of locks. A snapshot stops the line of a lock for a
// moment, and its JSON may have megabytes. So listing takes one snapshot at a time, however
// many requests come. Requests that come meanwhile share the next snapshot. An answer is never
// older than its request, so it shows what the same client has done before.
type listing struct {
	next   singleflight.Group // the snapshots that have not begun yet, by what they show
	taking sync.Mutex         // held while a snapshot is taken
}

// Listed says which status a request asks for.
type Listed struct {
	Lock    *Lock // nil: all locks
	Waiters int   // at most so many of each lock
	PID     int   // goes into the answer; 0: none, as on the status page
}

// DefaultWaiters is how many waiters of a lock are listed, unless the request says how many.
const DefaultWaiters = 1000

// StatusJSON returns the status of locks as JSON. Calls at the same time share it, so the caller must
// not change it.
func StatusJSON(what Listed) ([]byte, error) {
	l, key := &locks.listing, fmt.Sprint(what)
	raw, err, _ := l.next.Do(key, func() (any, error) {
		l.taking.Lock()
		defer l.taking.Unlock()
		l.next.Forget(key) // a request that comes from now on must get a later snapshot
		raw, err := json.Marshal(what.snapshot())
		return append(raw, '\n'), err
	})
	return raw.([]byte), err
}

func (what Listed) snapshot() any {
	listed := func(l *Lock) status.Lock {
		s := l.Status(what.Waiters)
		s.PID = what.PID
		return s
	}
	if what.Lock != nil {
		return listed(what.Lock)
	}
	all := []status.Lock{} // not null in JSON
	for _, l := range InForce() {
		all = append(all, listed(l))
	}
	return struct {
		Locks []status.Lock `json:"locks"`
		PID   int           `json:"pid,omitempty"`
	}{all, what.PID}
}

// WaitsSince is Record.WaitsSince of the lock's record.
func (l *Lock) WaitsSince(n uint64) (waits []time.Duration, admitted uint64) {
	return l.record.WaitsSince(n)
}

// Status returns the status of the lock, with at most so many waiters.
func (l *Lock) Status(most int) status.Lock {
	paused := l.pauses.status()
	stats, holders, waiters := l.queue.Snapshot(most)
	now := time.Now()
	s := status.Lock{
		Name:       l.Name(),
		Now:        now,
		Slots:      l.pool.Slots(),
		Held:       stats.Held,
		Waiting:    stats.Waiting,
		MaxWaiting: l.current.Load().settings.MaxWaiting,

		OldestWaitSeconds: stats.OldestWait(now).Seconds(),

		LeftOver:    int(l.leftOver.Load()),
		Exclusive:   stats.Exclusive,
		Failing:     l.failing(now),
		Connections: make(map[string]uint64),
		Waits:       l.record.Waits(),
		Holders:     make([]status.Connection, 0, len(holders)),
		Waiters:     make([]status.Connection, 0, len(waiters)),
		Events:      l.record.Events(),
	}
	if stats.Paused && paused != nil {
		s.Paused = paused
	}
	for i, outcome := range status.Outcomes {
		s.Connections[outcome] = l.record.Ended(i)
	}
	for _, p := range holders {
		s.Holders = append(s.Holders, l.connectionStatus(p, now))
	}
	for i, p := range waiters {
		w := l.connectionStatus(p, now)
		w.Position = i + 1
		s.Waiters = append(s.Waiters, w)
	}
	for _, w := range l.pool.All() {
		found := w.Status()
		if found.State == status.WorkerRemoved && found.Process == nil &&
			!slices.ContainsFunc(holders, func(p queue.Waiter) bool { return p.Slot == w.Slot }) {
			continue // the pool keeps it in case a reload brings it back
		}
		s.Workers = append(s.Workers, found)
	}
	return s
}

func (l *Lock) connectionStatus(p queue.Waiter, now time.Time) status.Connection {
	w := p.Owner.(*Waiter)
	s := status.Connection{
		ID:       p.ID,
		Client:   w.conn.Address,
		State:    status.StateWaiting,
		Since:    clock.Wall(p.Joined, now),
		Priority: p.Priority,
		Slot:     p.Slot,
		BytesIn:  w.conn.Traffic.In.Load(),
		BytesOut: w.conn.Traffic.Out.Load(),
	}
	waited := now.Sub(p.Joined) - p.Apart
	if p.State != queue.Waiting {
		waited = p.Waited
		s.State = w.state()
		s.Since = clock.Wall(p.Joined.Add(p.Apart+p.Waited), now)
		if h := w.holder.Load(); h != nil {
			_, s.Worker = w.slot()
			s.ConnectSeconds = h.connectTime().Seconds()
		} else if worker := l.pool.Worker(p.Slot); worker != nil {
			s.Worker = worker.Address
		}
	}
	s.WaitedSeconds = max(0, waited.Seconds())
	return s
}
