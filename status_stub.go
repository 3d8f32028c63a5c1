package tcplock

import (
	"slices"
	"strings"
	"time"
)

// Stands in until the real ones are there.

func locksInForce() (all []*lock) {
	locks.Range(func(_, value any) bool {
		if l := value.(*lock); l.inForce.Load() != nil {
			all = append(all, l)
		}
		return true
	})
	slices.SortFunc(all, func(a, b *lock) int { return strings.Compare(a.name, b.name) })
	return all
}

func lockStatuses(most int) []LockStatus {
	all := []LockStatus{}
	for _, l := range locksInForce() {
		all = append(all, l.status(most))
	}
	return all
}

func (l *lock) status(most int) LockStatus {
	now := time.Now()
	stats, holders, waiters := l.queue.Snapshot()
	s := LockStatus{
		Name: l.name, Now: now, Slots: stats.Slots, Held: stats.Held, Waiting: stats.Waiting,
		LeftOver: int(l.leftOver.Load()), Connections: map[string]uint64{"served": stats.Total.Granted, "refused_full": stats.Total.Refused},
		Holders: []ConnectionStatus{}, Waiters: []ConnectionStatus{}, Events: []Event{},
	}
	if stats.Paused {
		s.Paused = &PauseStatus{Since: now}
	}
	if !stats.Oldest.IsZero() {
		s.OldestWaitSeconds = now.Sub(stats.Oldest).Seconds()
	}
	for _, p := range holders {
		s.Holders = append(s.Holders, ConnectionStatus{ID: p.seq, Client: clientOfPlace(p), State: stateConnected, Since: p.joined.Add(p.waited), WaitedSeconds: p.waited.Seconds(), Slot: p.slot})
	}
	for i, p := range waiters[:min(most, len(waiters))] {
		s.Waiters = append(s.Waiters, ConnectionStatus{ID: p.seq, Client: clientOfPlace(p), State: stateWaiting, Since: p.joined, WaitedSeconds: now.Sub(p.joined).Seconds(), Position: i + 1})
	}
	return s
}

func clientOfPlace(p place) string {
	if c, ok := p.owner.(*conn); ok {
		return c.client
	}
	return "somebody"
}

func (l *lock) waitsSince(n uint64) (waits []time.Duration, next uint64) {
	return nil, l.queue.Stats().Total.Granted
}
