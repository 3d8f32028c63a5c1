package tcplock

import (
	"cmp"
	"sync/atomic"
	"time"

	"go.uber.org/zap/zapcore"
)

// The end of a connection that holds a slot. Its next handler returns (end), or does not
// in time (overstay, handOn): whoever is first turns over to true, and gives the slot
// back.

// end is called when the next handler has returned, or will never be called. The slot
// goes back, unless hold_timeout was first: then its side sees to that.
func (c *conn) end(reason string) {
	c.closeService()
	c.mu.Lock()
	c.returned = true
	if c.back != nil {
		close(c.back)
		c.back = nil
	}
	wasLeftOver := c.leftOver
	if wasLeftOver {
		c.leftOver = false
		c.lock.leftOver.Add(-1)
	}
	c.mu.Unlock()
	if wasLeftOver {
		c.log(zapcore.InfoLevel, "left-over connection has ended") // not under the mutex: a log may stand still
	}
	if c.over.Load().CompareAndSwap(false, true) {
		c.finish(reason)
	}
}

// overstay is called when hold_timeout is over. A service that neither answers nor
// closes keeps the proxy from returning for ever, so the slot does not wait for that.
func (c *conn) overstay(over *atomic.Bool) {
	if !over.CompareAndSwap(false, true) {
		return // the connection has ended in time, if only just
	}
	c.log(zapcore.WarnLevel, "hold_timeout is over, client cut")
	c.reason.Store(holdTimeout)
	c.phase.Store(stateEnding)
	c.lock.happened(c.event(eventTimeout, ""))
	c.held = time.Since(c.letIn)
	c.cut()
	_ = c.lock.runHooks(onTimeout, c)
	c.awaitReturn(c.letIn.Add(c.held + letGoGrace))
	if c.worker != nil {
		c.worker.restart(restartHoldTimeout)
	}
	c.finish(holdTimeout)
}

// letGoGrace is how long the service may take to let go of a connection whose client has
// been cut, before its slot is handed on all the same.
const letGoGrace = 250 * time.Millisecond

// hearOutGrace is how long a service may go on answering a client that has gone, or was
// cut. It is less than letGoGrace: one that talks on then loses its connection, and has a
// moment left to notice.
const hearOutGrace = letGoGrace * 4 / 5

// hearOut reports whether the service is to be heard although its client cannot be. If the
// proxy were told at once, it would close its socket and return while the service is in the
// middle of its answer, and the slot's next connection would be one too many for it. Who
// closes in time is seen to close.
func (c *conn) hearOut() bool {
	return c.granted && !c.serviceDone.Load() && c.noteGone() < hearOutGrace
}

// noteGone notes that the client has gone, and returns how long ago that was noted first.
func (c *conn) noteGone() time.Duration {
	now := time.Now()
	c.goneAt.CompareAndSwap(nil, &now)
	return now.Sub(*c.goneAt.Load())
}

// awaitReturn waits for the next handler to return, for no longer than until then. Most
// services let go of a client that was cut at once, and are to see no second one before.
func (c *conn) awaitReturn(until time.Time) {
	c.mu.Lock()
	if c.returned {
		c.mu.Unlock()
		return
	}
	back := make(chan struct{})
	c.back = back
	c.mu.Unlock()
	waitFor(back, time.Until(until))
}

// handOn is called a while after the client of a holder was cut by an operator: the
// service has not let go of it, and the slot does not wait for that.
func (c *conn) handOn() {
	over := c.over.Load()
	if over == nil || c.phase.Load() != stateConnected || !over.CompareAndSwap(false, true) {
		return // its hooks still run, and it will not reach the service; or it is over
	}
	if c.worker != nil {
		c.worker.restart(restartKicked)
	}
	c.finish(kicked)
}

// finish runs the release hooks, lets the service settle, and gives the slot back. The
// client does not wait for that. Only who has turned over to true may call it.
func (c *conn) finish(reason string) {
	if c.kicked.Load() {
		reason = kicked
	}
	c.reason.Store(reason)
	c.phase.Store(stateEnding)
	c.recount()
	if !c.letIn.IsZero() {
		c.held = cmp.Or(c.held, time.Since(c.letIn))
		c.lock.record.hold.Observe(c.held.Seconds())
	}
	claim := c.lock.inForce.Load()
	settle := time.Duration(claim.settings.Settle)
	if settle == 0 && len(claim.hooks[onRelease]) == 0 {
		c.giveBack()
		return
	}
	go func() {
		_ = c.lock.runHooks(onRelease, c)
		sleep(c.lock.ctx, settle)
		c.giveBack()
	}()
}

func (c *conn) giveBack() {
	w := c.worker
	if w != nil {
		w.ended(c.reached.Load(), c.counts)
	}
	outcome := c.reason.Load().(string)
	c.outcome = outcome
	c.lock.record.noteEnd(outcome)
	c.lock.giveBack(&c.place)
	if w == nil {
		w = at(c.lock.pool(), c.slot-1) // the slot has got one meanwhile, which may be removed again
	}
	if w != nil {
		w.vacated()
	}
	c.mu.Lock()
	leftOver := !c.returned
	if leftOver {
		c.leftOver = true
		c.lock.leftOver.Add(1)
	}
	c.mu.Unlock()
	if leftOver {
		c.log(zapcore.WarnLevel, "slot handed on, but the service has not let go of the connection: it is left over")
		c.lock.happened(c.event(eventLeftOver, outcome))
	}
	c.lock.happened(c.event(eventReleased, outcome))
	c.exit()
}
