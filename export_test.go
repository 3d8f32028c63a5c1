package tcplock

import "time"

// LockStats lets the tests that look from outside know when a client stands in line:
// nothing that the client or the service sees tells that.
func LockStats(name string) (slots, held, waiting, leftOver int) {
	for _, l := range locks.list() {
		if l.name() != name {
			continue
		}
		s := l.queue.Stats()
		held, waiting, leftOver = s.Held, s.Waiting, int(l.leftOver.Load())
		l.mu.Lock()
		slots = l.slots
		l.mu.Unlock()
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

// SetDescriptorLimit sets what the process may have for the time of a test.
func SetDescriptorLimit(n int64) (restore func()) {
	limit, refusals := budget.limit, budget.refusals
	set := newDescriptors(n)
	budget.limit, budget.refusals = set.limit, set.refusals
	return func() { budget.limit, budget.refusals = limit, refusals }
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
	before := listenFor
	listenFor = d
	return func() { listenFor = before }
}
