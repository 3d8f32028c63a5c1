package tcplock

import (
	"fmt"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// LockStats lets the tests that look from outside know when a client stands in line:
// nothing that the client or the service sees tells that.
func LockStats(name string) (slots, held, waiting, leftOver int) {
	for _, l := range locks.list() {
		if l.name() != name {
			continue
		}
		s := l.queue.Stats()
		held, waiting, leftOver = s.Held, s.Waiting, int(l.leftOver.Load())
		slots = l.pool.slots()
	}
	return slots, held, waiting, leftOver
}

// Locks counts the locks that are in use.
func Locks() int { return len(locks.list()) }

// Ending counts the places of processes that have not ended, also of locks that are no more.
func Ending() int {
	ends.Lock()
	defer ends.Unlock()
	return len(ends.last)
}

// SetDescriptorLimit sets what the process may have for the time of a test. What the test before
// has left to end is waited for, for a while: it would be taken away from another budget than
// the one that it was added to.
func SetDescriptorLimit(n int64) (restore func()) {
	for end := time.Now().Add(20 * time.Second); Budget() != "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	before := budget
	budget = newDescriptors(n)
	return func() { budget = before }
}

// Boards counts the boards of status pages that are in use.
func Boards() (n int) {
	boards.Range(func(any, any) bool { n++; return true })
	return n
}

// Counted is how many connections the budget of descriptors counts.
func Counted() int { return int(budget.connections.Load()) }

// SetListenFor sets how long a probe listens, for the time of a test.
func SetListenFor(d time.Duration) (restore func()) {
	before := dial.ListenFor
	dial.ListenFor = d
	return func() { dial.ListenFor = before }
}

// Budget says what the budget of descriptors counts in all, "" if that is nothing.
func Budget() string {
	now := [...]int64{
		budget.connections.Load(), budget.services.Load(), budget.others.Load(),
		int64(budget.refusals.inUse()), int64(budget.drains.inUse()),
	}
	if now == [len(now)]int64{} {
		return ""
	}
	return fmt.Sprintf("%d connections, %d sockets to services, %d descriptors of processes and commands, %d refused, %d of them draining",
		now[0], now[1], now[2], now[3], now[4])
}

// Events are the last ones of a lock, the newest first.
func Events(name string) (events []status.Event) {
	for _, l := range locks.list() {
		if l.name() == name {
			events = l.record.lastEvents()
		}
	}
	return events
}

// Draining is how many refused connections are waited for to take the end of their answer.
func Draining() int { return budget.drains.inUse() }
