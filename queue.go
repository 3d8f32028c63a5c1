package tcplock

import "github.com/seed-4dbef00f/caddy-tcplock/internal/lock"

// wait stands in line until the connection has a slot or never will. It returns the holder, or the
// outcome if there will be none. The connection is parked on the client's socket meanwhile.
func wait(w *lock.Waiter) (h *lock.Holder, outcome string) {
	for {
		if h, outcome = w.Poll(); h != nil || outcome != "" {
			return h, outcome
		}
		if outcome = w.GiveUp(w.Park()); outcome != "" {
			return nil, outcome
		}
	}
}
