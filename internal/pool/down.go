package pool

import (
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A worker that cannot be reached is left out for a while. Then its slot may be granted again: the next
// connection tries it.

// The time for which a worker is left out doubles with each failure. Where all slots lead to one service,
// the whole line waits for the next try, so that time stays short.
const (
	minLeftOut       = 500 * time.Millisecond
	maxLeftOut       = 30 * time.Second
	maxLeftOutShared = 5 * time.Second
)

// Down leaves the worker out for a while after a connection could not reach it. If its process has
// ended meanwhile, Down does nothing: the slot is out until another process is ready.
func (w *Worker) Down(err error) {
	if p := w.Running(); p != nil && !p.Missed() {
		return
	}
	w.mu.Lock()
	if w.Slot == 0 && w.why&outDown != 0 { // another connection has found it down just now
		w.mu.Unlock()
		return
	}
	longest := maxLeftOut
	if w.Slot == 0 {
		longest = maxLeftOutShared
	}
	leftOut := min(minLeftOut<<min(w.failed, 16), longest)
	first := w.failed == 0
	if w.failed++; first {
		w.since = time.Now()
	}
	w.leaveOut(leftOut)
	w.mu.Unlock()
	w.pool.Lock.CountUnreachable(w.Slot)
	if first {
		w.pool.Lock.Publish(status.Event{Event: status.EventWorkerDown, Slot: w.Slot, Worker: w.Address, Error: err.Error()})
	}
	w.warn("worker cannot be reached, left out", leftOut, err)
}

// Spare leaves the worker out for a moment after this process could not even try to reach it, which does
// not count against the worker.
func (w *Worker) Spare(err error) {
	w.mu.Lock()
	w.leaveOut(minLeftOut)
	w.mu.Unlock()
	w.warn("cannot connect to the worker for lack of resources of this system, left out", minLeftOut, err)
}

// leaveOut takes the slot out of service for a while. The mutex is held.
func (w *Worker) leaveOut(d time.Duration) {
	if w.why&outRemoved == 0 { // the slot may be another worker's by now
		w.pool.Lock.Out(w.Slot)
	}
	w.why |= outDown
	if w.retry != nil {
		w.retry.Stop()
	}
	w.retry = time.AfterFunc(d, func() { w.putIn(outDown) })
}

func (w *Worker) warn(what string, leftOut time.Duration, err error) {
	w.pool.Lock.Logger().Warn(what, zap.String("lock", w.pool.Lock.Name()), zap.Int("slot", w.Slot),
		zap.String("worker", w.Address), zap.Duration("for", leftOut), zap.Error(err))
}

// Succeeded notes that a connection has reached the worker.
func (w *Worker) Succeeded() {
	w.mu.Lock()
	up := w.failed > 0
	w.failed = 0
	w.mu.Unlock()
	if up {
		w.pool.Lock.Publish(status.Event{Event: status.EventWorkerUp, Slot: w.Slot, Worker: w.Address})
	}
}

// Restored ends the time for which the worker is left out, if it is.
func (w *Worker) Restored() {
	w.mu.Lock()
	isDown := w.failed > 0 || w.why&outDown != 0
	w.mu.Unlock()
	if isDown {
		w.Succeeded()
		w.putIn(outDown)
	}
}

// DownSince returns since when no connection has reached any worker; zero: the last try of one has
// succeeded, or there are none.
func (p *Pool) DownSince() (since time.Time) {
	workers := p.Named()
	if shared := p.shared.Load(); shared != nil {
		workers = []*Worker{shared}
	}
	for _, w := range workers {
		w.mu.Lock()
		failed, at := w.failed, w.since
		w.mu.Unlock()
		if failed == 0 {
			return time.Time{}
		}
		if at.After(since) {
			since = at
		}
	}
	return since
}
