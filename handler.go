package tcplock

import (
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Handle takes a connection through the lock: into the line, through the activate
// hooks, to the next handler, and out again. If the connection can be detached, it only joins.
func (h *Handler) Handle(cx *layer4.Connection, next layer4.Handler) (err error) {
	w := h.config.Enter(cx)
	detached := false
	defer func() {
		if r := recover(); r != nil {
			err = w.Abort(r) // a panic that one client causes must not end the process or keep a slot
		}
		if !detached {
			w.Leave()
		}
	}()
	if refused, err := w.Check(h.config, cx.Conn); refused {
		return err
	}
	if detached = w.JoinDetached(cx, h.Priority, h.refusal); detached {
		return nil // the lock has it from here on
	}
	outcome := w.Join(h.Priority)
	var holder *lock.Holder
	var view *layer4.Connection
	for {
		if outcome == "" {
			holder, outcome = wait(w)
		}
		if view == nil {
			view = w.Wrap(cx) // not before, since that takes memory, and the line may be long
		}
		if outcome == "" {
			outcome = holder.Activate()
		}
		if outcome == "" {
			outcome, err = holder.Serve(view, next)
		}
		switch outcome {
		case status.Served, status.ServiceError:
			w.Discard() // off the slot, so that the end of the reply is not reset away
			return err
		case lock.Requeued: // the connection is back in line, where it stood
			outcome = ""
		default:
			return w.Refuse(outcome, h.answer(view))
		}
	}
}

// Use has the handler take connections to c's lock, and the refused ones to refusal, if it is not
// nil. Provision does that. A test may do it with a lock of its own.
func (h *Handler) Use(c *lock.Config, refusal layer4.Handler) { h.config, h.refusal = c, refusal }

// answer returns a function that runs the refuse handlers, or nil if there are none.
func (h *Handler) answer(cx *layer4.Connection) func() error {
	if h.refusal == nil {
		return nil
	}
	return func() error { return h.refusal.Handle(cx) }
}
