package lock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Waiter is a connection on its way through a lock: in line, and from each slot that it is
// granted on with a holder. It stays the same when the connection goes back in line.
type Waiter struct {
	lock   *Lock
	config *Config // by which the connection came
	conn   *client.Conn
	outer  *Waiter // the connection's way through the lock before this one, if any
	queued queue.Waiter

	waitTimeout time.Duration
	counted     bool // the budget counts its client
	observed    bool // the time in line is in the metrics
	trip        trip

	*detachment // nil: Handle's goroutine takes it through the lock

	holder   atomic.Pointer[Holder] // of the slot it has; nil: none, or it does not know yet
	kicked   atomic.Bool            // an operator has kicked the connection
	unserved atomic.Bool            // it has left the line because of an outage
	users    atomic.Int32           // Handle, and each holder until its slot is released, see exit
}

// came notes where the connection comes from, and when.
func (w *Waiter) came(conn net.Conn, from net.Addr) {
	w.queued.Owner, w.queued.Client, w.queued.Arrival = w, clientOf(from), arrival(conn)
}

// arrival is the connection's place in the order of arrival: on keep/ that of accept, see listen.Conn. It
// is 0 everywhere else: behind those that have come before.
func arrival(conn net.Conn) uint64 {
	if conn, ok := conn.(*listen.Conn); ok {
		return conn.Arrival()
	}
	return 0
}

// clientOf is where a connection comes from, for the bounds of each client: an IPv4 address,
// or the /64 of an IPv6 one, which is what one customer has. Other clients, such as those
// of a unix socket, have no bounds.
func clientOf(addr net.Addr) queue.ClientKey {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return 0
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is4() {
		b := ip.As4()
		return queue.ClientKey(1<<32 | uint64(binary.BigEndian.Uint32(b[:]))) // no IPv6 network begins like this
	}
	b := ip.As16()
	return queue.ClientKey(max(1, binary.BigEndian.Uint64(b[:8]))) // ::1 is one as well
}

// Check refuses a connection that must not even join: config is what it came by.
func (w *Waiter) Check(config *Config, conn net.Conn) (refused bool, err error) {
	if err := w.lock.activateFirst(config); err != nil {
		return true, err
	}
	if err := w.checkNesting(); err != nil {
		return true, err
	}
	if err := client.HeaderError(conn); err != nil {
		if !w.lock.refusals.Allow() {
			return true, nil // the error would be a line in the log
		}
		return true, fmt.Errorf("PROXY header from %s: %w", w.conn.Address, err)
	}
	return false, nil
}

// countClient counts the connection's client in the budget, or returns false if there may not be one
// more. A connection that goes through several locks has one client and one service: the outermost
// lock that has it counts it.
func (w *Waiter) countClient() bool {
	for outer := w.outer; outer != nil; outer = outer.outer {
		if outer.counted {
			return true
		}
	}
	w.counted = fds.Process.Enter()
	return w.counted
}

// uncount undoes countClient.
func (w *Waiter) uncount() {
	if w.counted {
		w.counted = false
		fds.Process.Leave()
	}
}

// checkNesting refuses a connection that has a slot of this lock already.
func (w *Waiter) checkNesting() error {
	for outer := w.outer; outer != nil; outer = outer.outer {
		if h := outer.holder.Load(); outer.lock == w.lock && h != nil && h.state() != status.StateEnding {
			return fmt.Errorf("found a second tcplock of lock %s on one connection's way, expected one: it would wait for itself", w.lock.Name())
		}
	}
	return nil
}

// Join asks for a slot. It returns "" when the connection stands in line or holds a slot,
// else why it does neither.
func (w *Waiter) Join(priority int) (outcome string) {
	s := &w.lock.current.Load().settings
	w.waitTimeout, w.conn.Input.Drop = time.Duration(s.WaitTimeout), s.HalfClosed == halfClosedDrop
	w.conn.LingerFor(s.linger())
	if !w.counted && !w.countClient() {
		return status.RefusedFull
	}
	w.queued.Priority = priority
	holds, err := w.lock.queue.Join(&w.queued, time.Now())
	switch {
	case errors.Is(err, queue.ErrClosed):
		return status.Shutdown
	case errors.Is(err, queue.ErrFullPaused):
		return status.RefusedPaused
	case err != nil:
		return status.RefusedFull
	case !holds:
		w.trip.position = w.queued.Ahead + 1 // without the mutex: it does not change any more
	}
	return ""
}

// Poll returns the holder if the connection has got a slot, or the outcome if it never will.
// It returns neither while the connection is in line. If the slot is granted just as the client
// leaves, the connection takes it: activate checks for the client.
func (w *Waiter) Poll() (h *Holder, outcome string) {
	q := w.lock.queue.Load(&w.queued)
	if q.State == queue.Holding {
		w.trip.waited = q.Waited
		return newHolder(w, q.Slot), ""
	}
	return nil, w.whyGone(q)
}

// whyGone returns why the connection was taken out of the line, "" if it was not. q is its state.
func (w *Waiter) whyGone(q queue.Waiter) (outcome string) {
	if q.State != queue.Gone {
		return ""
	}
	w.trip.waited = time.Since(q.Joined) - q.Apart
	switch {
	case q.Expelled || w.kicked.Load():
		return status.Kicked
	case w.unserved.Load():
		return status.WorkerDown
	}
	return status.Shutdown
}

// Park waits on the client's socket until the connection is called, its wait_timeout has passed, or
// the client has gone.
func (w *Waiter) Park() client.Woken {
	var until time.Time
	if w.waitTimeout > 0 {
		until = w.queued.Joined.Add(w.waitTimeout + w.queued.Apart) // only this goroutine changes them
	}
	return w.conn.Park(until)
}

// GiveUp leaves the line, if that is what the connection woke up for. It returns "" if the
// connection must poll again: it was called, or was granted a slot just now.
func (w *Waiter) GiveUp(woken client.Woken) (outcome string) {
	if woken == client.Called && !w.kicked.Load() || !w.lock.queue.Leave(&w.queued) {
		return ""
	}
	w.trip.waited = w.inLineFor(time.Now())
	w.lock.noteIdle()
	switch {
	case w.kicked.Load(): // when it had a slot, but its worker could not be reached
		return status.Kicked
	case woken == client.TimedOut:
		return status.WaitTimeout
	}
	return status.ClientGone
}

// Abort cleans up after a panic: it leaves the line or releases the slot. It returns the panic as
// an error.
func (w *Waiter) Abort(panicked any) error {
	h := w.holder.Load()
	if h == nil && w.lock.queue.Leave(&w.queued) {
		w.lock.noteIdle()
		w.end(status.ClientGone)
	} else if q := w.lock.queue.Load(&w.queued); h == nil && q.State == queue.Holding {
		h = newHolder(w, q.Slot)
	}
	if h != nil {
		h.end(status.ServiceError).start()
	}
	return w.panicked(panicked)
}

func (w *Waiter) panicked(p any) error {
	return fmt.Errorf("panic behind lock %s: %v\n%s", w.lock.Name(), p, debug.Stack())
}

// inLineFor returns how long the connection has stood in line.
func (w *Waiter) inLineFor(now time.Time) time.Duration {
	return now.Sub(w.queued.Joined) - w.queued.Apart
}

// end records how the connection has ended.
func (w *Waiter) end(outcome string) {
	w.trip.outcome = outcome
	w.lock.record.CountEnd(outcome)
}

// granted and turnedAway implement owner. They wake the goroutine that has the connection, which looks at the
// queue. A detached connection in line has none: they start one.

func (w *Waiter) granted() {
	if w.isDetached() && w.holder.Load() == nil {
		w.start()
		return
	}
	w.conn.Wake()
}

func (w *Waiter) turnedAway() {
	if w.isDetached() && w.holder.Load() == nil {
		go w.leaveTurnedAway()
	}
	w.conn.Wake()
}

// kick cuts a connection that has a slot.
func (w *Waiter) kick(slot int, reason string) {
	w.kicked.Store(true)
	if h := w.holder.Load(); h != nil {
		h.kick()
	} else {
		w.conn.Cut() // activate, which comes next, ends it
	}
	w.lock.Publish(status.Event{Event: status.EventKicked, Slot: slot, Connection: w.queued.ID, Client: w.conn.Address, Reason: reason})
}

// slot returns the slot that the connection has or had last, 0 if none, and the address of its worker,
// "" if the lock does not know it.
func (w *Waiter) slot() (slot int, worker string) {
	if h := w.holder.Load(); h != nil {
		return h.slot, h.address
	}
	return 0, ""
}

// state is what a connection that has a slot does with it.
func (w *Waiter) state() string {
	if h := w.holder.Load(); h != nil {
		return h.state()
	}
	return status.StateActivating // its slot is granted, and Handle's goroutine has not woken yet
}

// Discard reads what the client still sends, until it has closed or linger is over.
func (w *Waiter) Discard() { w.conn.Discard() }

// Refuse ends a connection that does not reach the service. answer, if not nil, gives it to the
// refuse handlers.
func (w *Waiter) Refuse(outcome string, answer func() error) error {
	granted := w.holder.Load() != nil
	if !granted { // else releasing the slot does that
		w.end(outcome)
		w.trip.quiet = !w.lock.refusals.Allow()
	}
	if outcome == status.ClientGone || outcome == status.Kicked && granted { // a connection that is kicked from its slot has been cut
		return nil
	}
	w.conn.MarkUsed()
	w.trip.refused = outcome
	w.lock.Publish(w.event(status.EventRefused, outcome))
	w.lock.runRefuseHooks(w)
	if answer == nil {
		return nil
	}
	quiet := w.trip.quiet
	w.conn.Linger = 0 // it has no slot, but a seat that other refused connections may need
	kept, err := w.takeSeat(answer)
	if !kept || quiet {
		return nil // it was cut to free its seat, or the error would be a line in the log
	}
	return err
}

// takeSeat has the refuse handlers answer, if there is a seat for that, and reports whether
// the connection had it to the end.
func (w *Waiter) takeSeat(answer func() error) (kept bool, err error) {
	seat := fds.Process.Refusals.Enter(w.conn.Cut)
	if seat == nil {
		return false, nil
	}
	func() {
		defer func() { kept = fds.Process.Refusals.Leave(seat) }()
		err = answer()
	}()
	if !kept {
		return false, nil
	}
	// The end of the answer has a share of its own, or the next one would have to wait for
	// clients that are slow to take it.
	if seat := fds.Process.Drains.Enter(w.conn.Cut); seat != nil {
		defer fds.Process.Drains.Leave(seat)
		w.conn.Discard()
	}
	return true, err
}

// Wrap makes the connection known to the handlers to come, and returns it as they see it.
func (w *Waiter) Wrap(cx *layer4.Connection) *layer4.Connection {
	cx.SetVar(connVar, w)
	if w.outer != nil { // the lock before this one has added the placeholders
		return cx.Wrap(w.conn)
	}
	cx.Replacer().Map(func(key string) (any, bool) {
		name, ours := strings.CutPrefix(key, "l4.tcplock.")
		if !ours {
			return nil, false
		}
		newest := cx.GetVar(connVar).(*Waiter)
		value, ok := newest.moment("", newest.trip.refused).Values()[name]
		return value, ok
	})
	return cx.Wrap(w.conn)
}

// connVar names the connection variable that holds the connection's newest waiter.
const connVar = "l4.tcplock.conn"

// moment returns what hooks and placeholders can know of the connection now. The reason of a refusal is
// trip.refused, which only Handle's goroutine may read.
func (w *Waiter) moment(on, reason string) hook.Moment {
	slot, worker := w.slot()
	return hook.Moment{
		On:         on,
		Lock:       w.lock.Name(),
		Slot:       slot,
		Worker:     worker,
		Connection: w.queued.ID,
		Client:     w.conn.Address,
		Waited:     w.trip.waited,
		Reason:     reason,
	}
}

// event is an event of this connection.
func (w *Waiter) event(name, reason string) status.Event {
	slot, worker := w.slot()
	return status.Event{
		Event:         name,
		Slot:          slot,
		Worker:        worker,
		Connection:    w.queued.ID,
		Client:        w.conn.Address,
		Reason:        reason,
		WaitedSeconds: w.trip.waited.Seconds(),
		HeldSeconds:   w.trip.held.Seconds(),
	}
}

// Leave ends the connection's time in the lock. A detached one is closed.
func (w *Waiter) Leave() {
	if w.isDetached() {
		_ = w.socket.Close()
	}
	w.uncount()
	w.conn.Signs.Retired.Store(true)
	w.exit()
	w.lock.handling.Add(-1)
}

// exit removes a user of the waiter. The last one reports the connection's end and exits the lock.
func (w *Waiter) exit() {
	if w.users.Add(-1) == 0 {
		w.reportEnd()
		w.lock.Exit()
	}
}
