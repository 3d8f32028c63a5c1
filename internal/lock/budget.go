package lock

import (
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
)

// A connection that goes through several locks has one client and one service: the
// outermost lock that has it counts it.

// countClient counts the connection's client, or returns false if there may not be one more.
func (w *Waiter) countClient() bool {
	for outer := w.outer; outer != nil; outer = outer.outer {
		if outer.counted {
			return true
		}
	}
	w.counted = fds.Process.Enter()
	return w.counted
}

// countSocket counts the socket to the service that the holder will have.
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
