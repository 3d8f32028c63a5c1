package lock

import (
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A restart that an operator requests waits until the slot's holder is gone. But if the service
// hangs and the client has closed its side, nothing would ever end that connection. So such a
// holder is cut.

const (
	// restartLull is how long no byte must have moved, in either direction, before the service
	// counts as hanging.
	restartLull = 5 * time.Second

	// restartLook is the time between two looks at the holder.
	restartLook = 250 * time.Millisecond
)

// Restart has the slot's process restarted, or with slot 0 all of them, each between two
// clients of its slot. It returns how many.
func (l *Lock) Restart(slot int) (n int) {
	for _, w := range l.pool.List() {
		if w != nil && (slot == 0 || slot == w.Slot) && w.Running() != nil {
			w.Restart(status.RestartRequest)
			l.hasten(w)
			n++
		}
	}
	return n
}

// hasten makes sure that a requested restart takes effect. Each worker has at most one goroutine
// for that.
func (l *Lock) hasten(w *pool.Worker) {
	if !w.RestartDue() || !w.Hastened.CompareAndSwap(false, true) {
		return
	}
	go func() {
		var held lull
		for w.RestartDue() && clock.Sleep(l.ctx, restartLook) {
			held.look(l, w.Slot)
		}
		w.Hastened.Store(false)
		if l.ctx.Err() == nil {
			l.hasten(w) // if it was asked for again just then
		}
	}()
}

// lull measures how long no byte has moved for a holder whose client has closed its side.
type lull struct {
	holder *Waiter
	moved  int64
	since  time.Time
}

// look checks the slot's holder, and cuts it when the lull has lasted too long.
func (l *lull) look(lock *Lock, slot int) {
	p := lock.queue.Holder(slot)
	if p == nil {
		return
	}
	h := p.Owner.(*Waiter)
	if h.state() != status.StateConnected || h.kicked.Load() || !h.conn.InputOver() {
		l.holder = nil
		return
	}
	now := time.Now()
	if moved := h.conn.Moved(); h != l.holder || moved != l.moved {
		l.holder, l.moved, l.since = h, moved, now
		return
	}
	if now.Sub(l.since) >= restartLull {
		h.throwOut(slot, "restart")
	}
}
