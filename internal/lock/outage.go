package lock

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
)

// outage watches a service that the lock itself cannot reach. The line waits for the service, but a waiter
// without a wait_timeout must not wait for ever: it is refused.
type outage struct {
	watched atomic.Bool // there is a timer
}

// longestOutage is how long such a waiter may stand in line while the service cannot be reached. Some tests
// set it lower, before there is a lock.
var longestOutage = 30 * time.Second

// outageLook is the time between two looks at the line, after that.
const outageLook = time.Second

// watchOutage is called when the service could not be reached.
func (l *Lock) watchOutage() {
	if since := l.pool.DownSince(); !since.IsZero() && l.outage.watched.CompareAndSwap(false, true) {
		time.AfterFunc(time.Until(since.Add(longestOutage)), l.lookAtOutage)
	}
}

// lookAtOutage refuses those that have waited for too long. It comes again until the service is reached, or
// the lock has ended.
func (l *Lock) lookAtOutage() {
	l.outage.watched.Store(false)
	since := l.pool.DownSince()
	if since.IsZero() || l.ctx.Err() != nil {
		return
	}
	now := time.Now()
	if now.Sub(since) < longestOutage { // it was reached meanwhile, and then this outage began
		l.watchOutage()
		return
	}
	if s := l.queue.Stats(); s.OldestWait(now) >= longestOutage {
		_, _, waiters := l.queue.Snapshot(math.MaxInt)
		for _, p := range waiters {
			p.Owner.(*Waiter).giveUpOnService(p, now)
		}
	}
	if l.outage.watched.CompareAndSwap(false, true) {
		time.AfterFunc(outageLook, l.lookAtOutage)
	}
}

// giveUpOnService takes the connection out of the line if it may not wait for the service any longer. p is
// the state of the connection.
func (w *Waiter) giveUpOnService(p queue.Waiter, now time.Time) {
	if w.waitTimeout > 0 || now.Sub(p.Joined)-p.Apart < longestOutage {
		return
	}
	w.unserved.Store(true) // before it leaves: then it looks why
	if !w.lock.queue.Leave(&w.queued) {
		w.unserved.Store(false) // it was granted a slot, or has left
		return
	}
	w.lock.noteIdle()
	w.turnedAway()
}
