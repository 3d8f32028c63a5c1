package lock

import (
	"sync"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Holder is one slot granted to one connection. It is a new value for each slot, and walks
// one way:
//
//	           connect                end, onHoldTimeout, forceRelease:
//	           ┌──────▶ connected ──┐  the first one wins
//	activating ┤                    ├──▶ ending ──▶ abandoned ──▶ done
//	           └────────────────────┘       └──────────────────────▲
//
// Three events can end it: the next handler returns, hold_timeout passes, or an operator
// kicks the connection. Each asks "am I first?" (tryEnd), and the winner releases the slot,
// once. The next handler may not have returned by then: a service that does not let go of
// its client keeps no slot. Until that handler returns, the holder is abandoned.
type Holder struct {
	waiter *Waiter
	slot   int
	worker *pool.Worker // nil if the lock has no workers

	address string // of the service, in force when the slot was granted; "": only the next handler knows it

	timer         *time.Timer  // of hold_timeout, nil: none; Handle's goroutine only
	socketCounted bool         // the budget counts its socket to the service; Handle's goroutine only
	tallies       []hook.Tally // the counts of activate hooks that include it; for the goroutine that runs its hooks
	counts        bool         // every <n> counts it, see recount

	firstSign client.Observer // the holder itself, as its connection knows it

	mu          sync.Mutex
	phase       phase
	reason      string        // how it ended; empty before ending
	connecting  time.Duration // how long the lock's own connecting to the service took; 0: it has not
	connectedAt time.Time     // zero while activating
	hasReached  bool          // the connection has reached the service, as far as that can be told
	requeued    bool          // it ends because its worker cannot be reached: the connection goes back in line
	returned    bool          // the next handler has returned, or will not be called
	onReturn    chan struct{} // closed then, if not nil
	giveUp      func()        // ends the lock's own attempt to connect to the service; nil: it took no time
}

// phase is how far a holder has come.
type phase uint8

const (
	phaseActivating phase = iota // its worker is reached, its hooks run
	phaseConnected               // the next handler has the connection
	phaseEnding                  // hooks run, the service settles, the slot is not released yet
	phaseAbandoned               // the slot is released, the next handler has not returned
	phaseDone
)

// newHolder makes the holder of the slot that w was granted. It keeps the lock in use, since
// its end may come after that of Handle.
func newHolder(w *Waiter, slot int) *Holder {
	h := &Holder{waiter: w, slot: slot, worker: w.lock.pool.Worker(slot)}
	if h.worker != nil && h.worker.Slot == 0 && !w.config.connects {
		h.worker = nil // a reload has changed the way out: this connection does not go to that address
	}
	h.address, h.firstSign = h.whereTo(), h
	w.users.Add(1)
	h.countSocket()
	w.holder.Store(h)
	return h
}

// countSocket counts the socket to the service that the holder will have, unless an outer lock does.
func (h *Holder) countSocket() {
	for outer := h.waiter.outer; outer != nil; outer = outer.outer {
		if o := outer.holder.Load(); o != nil && o.socketCounted {
			return
		}
	}
	h.socketCounted = true
	h.waiter.lock.sockets.Open()
}

// uncountSocket undoes countSocket, when the next handler has returned.
func (h *Holder) uncountSocket() {
	if h.socketCounted {
		h.socketCounted = false
		h.waiter.lock.sockets.Close()
	}
}

// Activate reaches the worker and runs the activate hooks. It returns "" if the connection may go
// to the service, else the outcome. It checks whether the client has gone before each step that
// costs the service something, and after each step that takes time.
func (h *Holder) Activate() (outcome string) {
	w := h.waiter
	config := w.lock.current.Load()
	check := time.Duration(config.settings.WorkerCheck)
	switch {
	case w.kicked.Load(): // before it knew that it had been granted a slot
	case w.conn.IsGone():
		outcome = status.ClientGone
	case h.worker != nil && h.worker.Reach(w.lock.ctx, check) != nil:
		h.tryEnd(status.ServiceError, true)
		return h.requeue()
	case !h.takesTime(): // so the client is still there
	case w.conn.IsGone():
		outcome = status.ClientGone
	case len(config.hooks[hook.Activate]) == 0:
	case w.lock.runHooks(hook.Activate, h) != nil:
		outcome = status.HookFailed
	case w.conn.IsGone():
		outcome = status.ClientGone
	}
	if w.kicked.Load() {
		outcome = status.Kicked
	}
	if outcome != "" {
		h.end(outcome).start()
	}
	return outcome
}

// takesTime reports whether Activate may have to wait.
func (h *Holder) takesTime() bool {
	config := h.waiter.lock.current.Load()
	return h.worker != nil && (h.worker.Running() != nil || config.settings.WorkerCheck > 0) || len(config.hooks[hook.Activate]) > 0
}

// tryEnd asks to be the first that ends the holder, for this reason. The caller that gets true must
// release the slot, or with requeue, put the connection back in line.
func (h *Holder) tryEnd(reason string, requeue bool) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.phase >= phaseEnding {
		return false
	}
	h.phase, h.reason, h.requeued = phaseEnding, reason, requeue
	return true
}

// end is called when the next handler has returned, or will not be called. The slot is
// released, unless hold_timeout or an operator was first: then that side releases it. end returns what
// beginRelease does.
func (h *Holder) end(outcome string) (next *Waiter) {
	h.stopTimer()
	h.uncountSocket()
	h.mu.Lock()
	h.returned = true
	if h.onReturn != nil {
		close(h.onReturn)
		h.onReturn = nil
	}
	wasAbandoned := h.phase == phaseAbandoned
	if wasAbandoned {
		h.phase = phaseDone
		h.waiter.lock.leftOver.Add(-1)
	}
	h.mu.Unlock()
	if wasAbandoned {
		h.waiter.log(zapcore.InfoLevel, "left-over connection has ended") // not under the mutex: a log may stand still
	}
	if h.tryEnd(outcome, false) {
		return h.beginRelease(outcome)
	}
	return nil
}

// onHoldTimeout cuts the client. If the service neither answers nor closes, the proxy never
// returns, so the slot must not wait for that.
func (h *Holder) onHoldTimeout() {
	if !h.tryEnd(status.HoldTimeout, false) {
		return // the connection has ended just in time
	}
	w := h.waiter
	w.log(zapcore.WarnLevel, "hold_timeout is over, client cut")
	w.lock.Publish(w.event(status.EventTimeout, ""))
	w.trip.held = time.Since(h.connectedAt)
	w.conn.Cut()
	_ = w.lock.runHooks(hook.Timeout, h)
	h.awaitReturn(h.connectedAt.Add(w.trip.held + client.LetGoGrace))
	if h.worker != nil {
		h.worker.Restart(status.RestartHoldTimeout)
	}
	h.beginRelease(status.HoldTimeout).start()
}

// awaitReturn waits until the next handler returns, or the time has come. Most services close the
// connection of a cut client at once, and must not see the next client before that.
func (h *Holder) awaitReturn(until time.Time) {
	returned := make(chan struct{})
	h.mu.Lock()
	if h.returned {
		close(returned)
	} else {
		h.onReturn = returned
	}
	h.mu.Unlock()
	clock.Wait(returned, time.Until(until))
}

// kick cuts the connection. Its slot is released when the next handler returns, and after
// client.LetGoGrace at the latest.
func (h *Holder) kick() {
	h.waiter.conn.Cut()
	h.mu.Lock()
	giveUp := h.giveUp
	h.mu.Unlock()
	if giveUp != nil {
		giveUp()
	}
	time.AfterFunc(client.LetGoGrace, h.forceRelease)
}

// forceRelease releases the slot of a kicked connection whose next handler has not returned. While
// activate hooks run it does nothing: the connection will not reach the service.
func (h *Holder) forceRelease() {
	if h.state() != status.StateConnected || !h.tryEnd(status.Kicked, false) {
		return
	}
	if h.worker != nil {
		h.worker.Restart(status.RestartKicked)
	}
	h.beginRelease(status.Kicked).start()
}

// atService reports whether the next handler still has the connection. That can be so at timeout
// hooks, and at the release hooks of a connection that was cut.
func (h *Holder) atService() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.returned && !h.connectedAt.IsZero()
}

// state is the phase as operators know it. A connection that goes back in line is not ending: an
// operator can still kick it.
func (h *Holder) state() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.phase == phaseActivating || h.requeued:
		return status.StateActivating
	case h.phase == phaseConnected:
		return status.StateConnected
	}
	return status.StateEnding
}

// connectTime returns how long the lock's own connecting to the service took, 0 if it did not connect.
func (h *Holder) connectTime() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connecting
}

func (h *Holder) hasReturned() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.returned
}

// endReason returns how the holder ended, "" before that.
func (h *Holder) endReason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reason
}
