package tcplock

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Handle takes a connection through the lock: into the line, through the activate
// hooks, to the next handler, and out again.
func (h *Handler) Handle(cx *layer4.Connection, next layer4.Handler) (err error) {
	w := newWaiter(h.config.enter(), cx)
	defer w.leave()
	defer func() {
		if r := recover(); r != nil {
			// A panic that one client causes must not end the process or keep a slot.
			err = fmt.Errorf("panic behind lock %s: %v\n%s", w.lock.Name(), r, debug.Stack())
			w.abort()
		}
	}()
	if refused, err := h.checkConnection(cx, w); refused {
		return err
	}
	outcome := w.join(h.Priority)
	var holder *holder
	var view *layer4.Connection
	for {
		if outcome == "" {
			holder, outcome = w.wait()
		}
		if view == nil {
			view = w.wrap(cx) // not before, since that takes memory, and the line may be long
		}
		if outcome == "" {
			outcome = holder.activate()
		}
		if outcome == "" {
			outcome, err = serve(holder, view, next)
		}
		switch outcome {
		case status.Served, status.ServiceError:
			w.conn.Discard() // off the slot, so that the end of the reply is not reset away
			return err
		case status.WorkerDown: // the connection is back in line, where it stood
			outcome = ""
		default:
			return w.refuse(outcome, h.answer(view))
		}
	}
}

// checkConnection refuses a connection that must not even join.
func (h *Handler) checkConnection(cx *layer4.Connection, w *waiter) (refused bool, err error) {
	if err := w.lock.activateFirst(h.config); err != nil {
		return true, err
	}
	if err := w.checkNesting(); err != nil {
		return true, err
	}
	err = client.HeaderError(cx.Conn)
	switch {
	case err == nil:
		return false, nil
	case !w.lock.refusals.Allow():
		return true, nil // the error would be a line in the log
	}
	return true, fmt.Errorf("PROXY header from %s: %w", w.conn.Address, err)
}

// serve lends the connection to the next handler. The first of the handler's return, hold_timeout
// and an operator's kick ends the holder.
func serve(h *holder, cx *layer4.Connection, next layer4.Handler) (outcome string, err error) {
	h.connect()
	if d := time.Duration(h.waiter.lock.current.Load().settings.HoldTimeout); d > 0 {
		defer time.AfterFunc(d, h.onHoldTimeout).Stop()
	}
	try := h.waiter.conn.Begin(cx)
	err = next.Handle(cx)
	result := try.Classify(err)
	if outcome = h.finish(result, err); outcome == status.Served && err == nil && !result.Used {
		err = place.ErrNotTerminal
	}
	return outcome, err
}

// answer returns a function that runs the refuse handlers, or nil if there are none.
func (h *Handler) answer(cx *layer4.Connection) func() error {
	if h.refusal == nil {
		return nil
	}
	return func() error { return h.refusal.Handle(cx) }
}
