package lock

import (
	"net/netip"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/relay"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// runner is the goroutine of a slot. It runs one connection after the other, each as soon as the service is done
// with the one before: no other goroutine has to wake up in between.
type runner struct {
	former *Waiter // is done at the service, and has to be let go
}

// idleRunners is where runners without a slot wait for another. Their stacks have grown to what a connection needs.
var idleRunners = make(chan *Waiter)

// idleRunner is how long a runner waits there.
const idleRunner = 100 * time.Millisecond

// start gives the slot that the connection has been granted a runner. It does nothing without a connection.
func (w *Waiter) start() {
	if w == nil {
		return
	}
	select {
	case idleRunners <- w:
	default:
		go runSlots(w)
	}
}

// runSlots runs the slot of w, and then others.
func runSlots(w *Waiter) {
	over := time.NewTimer(idleRunner)
	for w != nil {
		new(runner).run(w)
		over.Reset(idleRunner)
		select {
		case w = <-idleRunners:
		case <-over.C:
			w = nil
		}
	}
}

func (r *runner) run(w *Waiter) {
	for w != nil {
		w = r.serve(w)
	}
	r.letGo()
}

// serve takes w, which has been granted a slot, through it. It returns the connection to which the slot goes on,
// nil if there is none, or if another goroutine has it.
func (r *runner) serve(w *Waiter) (next *Waiter) {
	defer func() {
		if p := recover(); p != nil {
			r.letGo()
			defer w.Leave()
			defer w.rescue()
			w.logError(w.Abort(p))
		}
	}()
	w.mu.Lock()
	w.endWait()
	w.mu.Unlock()
	h, outcome := w.Poll()
	if h != nil && h.takesTime() {
		r.letGo()
	}
	if outcome == "" {
		outcome = h.Activate()
	}
	var err error
	if outcome == "" {
		outcome, next, err = r.relay(h)
	}
	r.letGo()
	switch outcome {
	case status.Served, status.ServiceError:
		if err != nil {
			go w.logError(err) // the slot must not wait for the log
		}
		r.former = w
	case Requeued:
		w.waitAgain()
	default:
		w.leave(outcome)
	}
	return next
}

// relay takes h's connection to the service, and copies until the service is done.
func (r *runner) relay(h *Holder) (outcome string, next *Waiter, err error) {
	w := h.waiter
	if !h.isNear() {
		r.letGo()
	}
	service, err := h.connect()
	if err != nil {
		return h.unreached(err), nil, err
	}
	h.reach(service, w.socket)
	copying := relay.New(detachedClient{w.conn}, service)
	copying.Forward(w.conn.TryRead)
	r.letGo() // not before: it can wait, and the service cannot
	w.mu.Lock()
	w.relay = copying
	watched := w.socket.Watch(w, sock.Input)
	w.mu.Unlock()
	if watched != nil { // the client is heard in any case
		copying.Send()
	}
	err = copying.Run()
	outcome, next = h.served(err)
	return outcome, next, err
}

// isNear reports whether to connect takes no time, since the service is on this machine.
func (h *Holder) isNear() bool {
	address, err := netip.ParseAddrPort(h.address)
	return err == nil && address.Addr().IsLoopback()
}

// letGo ends the connection that was at the service before.
func (r *runner) letGo() {
	w := r.former
	if r.former = nil; w == nil {
		return
	}
	defer w.rescue() // the next connection must not suffer
	discard := func() {
		defer w.rescue()
		defer w.Leave()
		w.conn.Discard()
	}
	switch {
	case !w.conn.TryDiscard():
		time.AfterFunc(soon, discard)
	case w.logsEnd():
		go discard() // the slot must not wait for the log
	default:
		discard()
	}
}

// soon is when the client has mostly answered the end of its connection. To look again by then costs less than
// to wait for that.
const soon = 5 * time.Millisecond
