package lock

import (
	"slices"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The status of a lock at one moment, for the admin API, the status page and the commands. Field
// names are stable. Times are RFC 3339, durations are numbers of seconds.

// lockStatuses returns the status of all locks, by name, each with at most so many waiters.
func lockStatuses(most int) []status.Lock {
	all := []status.Lock{} // not null in JSON
	for _, l := range InForce() {
		all = append(all, l.Status(most))
	}
	return all
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
		Failing:     l.failingStatus(now),
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
	for _, w := range l.pool.List() {
		if w == nil {
			continue
		}
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
		if worker := l.pool.Worker(p.Slot); worker != nil {
			s.Worker = worker.Address
		}
	}
	s.WaitedSeconds = max(0, waited.Seconds())
	return s
}
