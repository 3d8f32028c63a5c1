package lock

import (
	"cmp"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// How a slot comes back from its holder: to the next in line, or because its worker cannot be reached.

// beginRelease runs the release hooks, lets the service settle, and releases the slot. The
// client does not wait for this. Only the winner of tryEnd may call it. It returns what release does, or nil if
// that comes later.
func (h *Holder) beginRelease(outcome string) (next *Waiter) {
	w := h.waiter
	if w.kicked.Load() {
		outcome = status.Kicked
	}
	h.recount(outcome)
	if !h.connectedAt.IsZero() {
		w.trip.held = cmp.Or(w.trip.held, time.Since(h.connectedAt))
		w.lock.record.Hold.Observe(w.trip.held.Seconds())
	}
	config := w.lock.current.Load()
	settle := time.Duration(config.settings.Settle)
	if settle == 0 && len(config.hooks[hook.Release]) == 0 {
		return h.release(outcome, true)
	}
	go func() {
		_ = w.lock.runHooks(hook.Release, h)
		clock.Sleep(w.lock.ctx, settle)
		h.release(outcome, false)
	}()
	return nil
}

// release gives the slot to the next in line. If that one is detached, and the caller can run it and has not to wait
// for the log, release returns it. The caller then runs or starts it.
func (h *Holder) release(outcome string, runs bool) (next *Waiter) {
	w := h.waiter
	h.mu.Lock()
	reached := h.hasReached
	h.mu.Unlock()
	if h.worker != nil {
		h.worker.Ended(reached, h.counts)
	}
	w.end(outcome)
	next = w.lock.release(&w.queued)
	if !runs || !h.hasReturned() {
		next.start()
		next = nil
	}
	whole := false
	defer func() {
		if !whole { // a panic below must not keep the slot
			next.start()
		}
	}()
	h.vacated()
	h.mu.Lock()
	returned := h.returned
	if h.phase = phaseDone; !returned {
		h.phase = phaseAbandoned
		w.lock.leftOver.Add(1)
	}
	h.mu.Unlock()
	if !returned {
		w.log(zapcore.WarnLevel, "slot handed on, but the service has not let go of the connection: it is left over")
		w.lock.Publish(w.event(status.EventLeftOver, outcome))
	}
	w.lock.Publish(w.event(status.EventReleased, outcome))
	w.exit()
	whole = true
	return next
}

// vacated tells the slot's worker that the slot is vacant. If the slot had none of its own when the holder got
// it, a reload may have brought one meanwhile, and may have removed it again.
func (h *Holder) vacated() {
	worker := h.worker
	if worker == nil || worker.Slot == 0 {
		worker = h.waiter.lock.pool.At(h.slot)
	}
	if worker != nil {
		worker.Vacated()
	}
}

// requeue gives up the slot, since its worker cannot be reached, but not the place in line. The
// time that went by with the slot is time in line, but for the hooks: so when wait_timeout
// has passed, the connection does not get another worker to try, and leaves.
func (h *Holder) requeue() (outcome string) {
	w := h.waiter
	h.uncountSocket()
	w.conn.Serve(nil)
	w.holder.Store(nil)
	q := w.lock.queue.Load(&w.queued)
	if waited := time.Since(q.Joined) - w.trip.hooked; w.waitTimeout > 0 && waited >= w.waitTimeout {
		if w.trip.waited, outcome = waited, status.WaitTimeout; w.kicked.Load() {
			outcome = status.Kicked
		}
		w.lock.release(&w.queued).start()
	} else {
		outcome = Requeued
		grant(w.lock.queue.Requeue(&w.queued, time.Now(), w.trip.hooked)) // which may be this one
	}
	h.vacated()
	w.exit() // which may be the end of it: a detached connection may have had its next slot by now
	return outcome
}

// recount settles the reason of the holder's end, and decides whether it counts for every <n>. If the
// next handler has not returned by now, the connection has reached the service as far as the lock can
// tell.
func (h *Holder) recount(reason string) {
	h.mu.Lock()
	h.reason = reason
	h.counts = h.hasReached && !h.mute() || !h.returned
	h.mu.Unlock()
	if !h.counts {
		h.uncount()
	}
}

// mute reports whether the connection has ended by itself without a byte in either direction.
// So do probes that connect and close at once: whether the lock sees that they have gone
// before they are connected to the service is a matter of microseconds, and must not decide
// about a restart. The mutex is held.
func (h *Holder) mute() bool {
	traffic := &h.waiter.conn.Traffic
	return traffic.In.Load()+traffic.Out.Load() == 0 && h.reason != status.HoldTimeout && h.reason != status.Kicked
}

// uncount takes the connection out of the counts of activate hooks: it has not reached the service.
func (h *Holder) uncount() {
	for _, t := range h.tallies {
		h.waiter.lock.schedule.TakeBack(t)
	}
	h.tallies = nil
}
