package tcplock

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mholt/caddy-l4/layer4"
)

// Handle takes a connection through the lock: into the line, through the activate
// hooks, to the next handler, and out again.
func (h *Handler) Handle(cx *layer4.Connection, next layer4.Handler) (err error) {
	c := newConn(cx, h.claim.enter())
	defer func() {
		if r := recover(); r != nil {
			// One client's trouble must not end the process, and keep no slot.
			err = fmt.Errorf("panic behind lock %s: %v\n%s", c.lock.name(), r, debug.Stack())
			c.stepOut()
		}
		c.leave(err)
	}()
	if err := c.lock.provide(h.claim); err != nil {
		return err
	}
	if err := c.meet(cx); err != nil {
		return err
	}
	if err := headerError(cx.Conn); err != nil {
		if !c.lock.refusals.allow() {
			return nil // the error would be a line in the log
		}
		return fmt.Errorf("PROXY header from %s: %w", c.client, err)
	}
	ended := c.join(h.Priority)
	var view *layer4.Connection
	for {
		if ended == "" {
			ended = c.await()
		}
		if view == nil {
			view = c.introduce(cx) // not before, since that takes memory, and there may be many in line
		}
		if ended == "" {
			ended = c.activate()
		}
		if ended == "" {
			ended, err = c.serve(view, next)
		}
		switch ended {
		case "":
			c.discard()
			return err
		case workerDown:
			ended = ""
		default:
			return h.turnAway(c, view, ended)
		}
	}
}

// turnAway ends a connection that does not reach the service.
func (h *Handler) turnAway(c *conn, cx *layer4.Connection, reason string) error {
	if !c.granted { // else giving back the slot does that
		c.outcome = reason
		c.lock.record.noteEnd(reason)
		c.quiet = !c.lock.refusals.allow()
	}
	if reason == clientGone || reason == kicked && c.granted { // who is kicked from a slot has been cut
		return nil
	}
	for outer := c.outer; outer != nil; outer = outer.outer {
		outer.used.Store(true) // by this one, which is no fault of the route
	}
	c.reason.Store(reason)
	c.lock.happened(c.event(eventRefused, reason))
	c.lock.refused(c)
	if h.refuse == nil {
		return nil
	}
	c.linger = 0 // it keeps no slot, but a seat that others may need
	kept, err := c.beRefused(cx, h.refuse)
	if !kept {
		return nil // it was cut for another one's sake, if it ever got there
	}
	// The end of the answer has a share of its own, or the next one would have to wait for
	// clients that are slow to take it.
	if seat := budget.drains.enter(c); seat != nil {
		defer budget.drains.leave(seat)
		c.discard()
	}
	if c.quiet {
		return nil // an error would be a line in the log as well
	}
	return err
}

// beRefused has the refuse handlers answer, if there is a seat for that, and reports whether
// c had it to the end.
func (c *conn) beRefused(cx *layer4.Connection, refuse layer4.Handler) (kept bool, err error) {
	seat := budget.refusals.enter(c)
	if seat == nil {
		return false, nil
	}
	defer func() { kept = budget.refusals.leave(seat) }()
	return true, refuse.Handle(cx)
}

// meet finds the locks that the connection has come through before, and refuses one that
// has a slot of this lock already.
func (c *conn) meet(cx *layer4.Connection) error {
	c.outer, _ = cx.GetVar(connVar).(*conn)
	for outer := c.outer; outer != nil; outer = outer.outer {
		if outer.lock == c.lock && outer.granted && !outer.over.Load().Load() {
			return fmt.Errorf("found a second tcplock of lock %s on one connection's way, expected one: it would wait for itself", c.lock.name())
		}
	}
	return nil
}

// headerError says that the PROXY header before the lock is broken. proxy_protocol (v0.1.2)
// passes such a connection on, and each read from it fails: it would take a slot for nothing.
func headerError(conn net.Conn) error {
	for {
		switch below := conn.(type) {
		case *layer4.Connection:
			conn = below.Conn
		case *tls.Conn:
			conn = below.NetConn()
		case interface {
			net.Conn
			Raw() net.Conn
		}: // go-proxyproto, which has read the header, and says what came of it before it reads on
			_, err := below.Read(nil)
			return err
		default: // the socket, or a lock that has asked already
			return nil
		}
	}
}

// introduce makes the connection known to the handlers to come, and returns it as they see
// it.
func (c *conn) introduce(cx *layer4.Connection) *layer4.Connection {
	cx.SetVar(connVar, c)
	if c.outer != nil { // which has told of the placeholders
		return cx.Wrap(c)
	}
	cx.Replacer().Map(func(key string) (any, bool) {
		name, ours := strings.CutPrefix(key, "l4.tcplock.")
		if !ours {
			return nil, false
		}
		value, ok := cx.GetVar(connVar).(*conn).moment("").values()[name]
		return value, ok
	})
	return cx.Wrap(c)
}

// connVar names the connection variable that holds the connection's newest *conn.
const connVar = "l4.tcplock.conn"

// join asks for a slot. It returns "" when c stands in line or holds one, else why it
// does not.
func (c *conn) join(priority int) (ended string) {
	s := &c.lock.inForce.Load().settings
	c.waitTimeout, c.drop = time.Duration(s.WaitTimeout), s.HalfClosed == halfClosedDrop
	c.lingerFor(s.linger())
	if !c.enterBudget() {
		return refusedFull
	}
	c.place.priority = priority
	holds, err := c.lock.queue.Join(&c.place, time.Now())
	c.id = c.place.seq // read without the mutex, as ahead is: nobody changes them from here on
	switch {
	case errors.Is(err, errClosed):
		return shutdown
	case errors.Is(err, errFullPaused):
		return refusedPaused
	case err != nil:
		return refusedFull
	case !holds:
		c.position = c.place.ahead + 1
	}
	return ""
}

// await waits for a slot. It returns "" when c holds one, else why it never will.
func (c *conn) await() (ended string) {
	var until time.Time
	for {
		// A slot that is granted just when the client goes is taken; activate
		// looks whether the client is still there to use it.
		p := c.lock.queue.Look(&c.place)
		switch {
		case p.state == placeHolding:
			c.hold(p)
			return ""
		case p.state == placeGone:
			c.waited = time.Since(p.joined) - p.apart
			if p.expelled || c.kicked.Load() {
				return kicked
			}
			return shutdown
		case c.waitTimeout > 0 && until.IsZero():
			until = p.joined.Add(c.waitTimeout + p.apart)
		}
		result := c.park(until)
		if result == parkWoken && !c.kicked.Load() || !c.lock.queue.Leave(&c.place) {
			continue
		}
		c.waited = time.Since(p.joined) - p.apart
		c.lock.noteIdle()
		switch {
		case c.kicked.Load(): // when it had a slot, whose worker could not be reached
			return kicked
		case result == parkTimeout:
			return waitTimeout
		}
		return clientGone
	}
}

// hold notes what c was granted. From here on there are two who use the lock for c:
// Handle, and whoever gives the slot back.
func (c *conn) hold(p place) {
	c.granted, c.slot, c.waited = true, p.slot, p.waited
	c.worker = c.lock.worker(p.slot)
	c.phase.Store(stateActivating)
	c.over.Store(new(atomic.Bool))
	c.users.Add(1)
	c.openService()
}

// backInLine gives the slot back, whose worker cannot be reached, but not the place. The
// time that went by with the slot is time in line, but for the hooks: so when wait_timeout is
// over, the connection does not get another worker to try, and leaves.
func (c *conn) backInLine() (ended string) {
	c.closeService()
	p := c.lock.queue.Look(&c.place)
	if waited := time.Since(p.joined) - c.hooked; c.waitTimeout > 0 && waited >= c.waitTimeout {
		if c.waited, ended = waited, waitTimeout; c.kicked.Load() {
			ended = kicked
		}
		c.lock.giveBack(&c.place)
	} else {
		ended = workerDown
		wake(c.lock.queue.Requeue(&c.place, time.Now(), c.hooked)) // which may be c itself
	}
	c.worker.vacated()
	c.granted, c.slot, c.worker, c.letIn = false, 0, nil, time.Time{}
	c.users.Add(-1)
	return ended
}

// activate makes sure that there is a worker, runs the activate hooks and looks whether
// the client is still there. It returns "" if so, else why not. It looks before each thing
// that costs the service something, and after what takes time.
func (c *conn) activate() (ended string) {
	claim := c.lock.inForce.Load()
	check := time.Duration(claim.settings.WorkerCheck)
	switch {
	case c.kicked.Load(): // before it knew that it had been granted a slot
	case c.worker != nil && c.gone():
		ended = clientGone
	case c.worker != nil && c.worker.reach(c.lock.ctx, check) != nil:
		return c.backInLine()
	case c.gone():
		ended = clientGone
	case len(claim.hooks[onActivate]) == 0: // no time has passed
	case c.lock.runHooks(onActivate, c) != nil:
		ended = hookFailed
	case c.gone():
		ended = clientGone
	}
	if c.kicked.Load() {
		ended = kicked
	}
	if ended != "" {
		c.end(ended)
	}
	return ended
}

// serve hands the connection to the next handler and gives the slot back when that has
// come to its end, which for the proxy means: the service has closed, and the proxy
// has closed its socket to it. It returns "" and the next handler's error, or workerDown.
func (c *conn) serve(cx *layer4.Connection, next layer4.Handler) (ended string, err error) {
	if !c.noted { // else it has been at another worker, in vain
		c.noted = true
		c.lock.record.noteWait(c.waited)
	}
	c.letIn = time.Now()
	c.phase.Store(stateConnected)
	c.lock.happened(c.event(eventActivated, ""))
	over := c.over.Load()
	if d := time.Duration(c.lock.inForce.Load().settings.HoldTimeout); d > 0 {
		defer time.AfterFunc(d, func() { c.overstay(over) }).Stop()
	}
	taken, before := c.taken.Load(), len(cx.MatchingBytes())
	err = next.Handle(cx)
	used := c.used.Load()
	taken, before = c.taken.Load()-taken, before-len(cx.MatchingBytes())
	switch {
	case isDial(err):
		c.reached.Store(false) // what was used was a handler before the proxy, such as tls
	case used:
		c.reach()
	}
	down := err != nil && !used && c.worker != nil && (taken == 0 && before == 0 || isDial(err))
	switch {
	case down:
		c.worker.down(err)
	case used && c.worker != nil && !isDial(err): // however it has ended then
		c.worker.gotThrough()
	}
	switch {
	case down && taken+int64(before) == 0 && over.CompareAndSwap(false, true):
		// Nobody has seen a byte of this connection, or what was looked at is there still:
		// it can go to another worker.
		c.reason.Store(serviceError)
		c.uncount()
		_ = c.lock.runHooks(onRelease, c)
		return c.backInLine(), nil
	case err != nil:
		c.end(serviceError)
		return "", err
	}
	c.end(served)
	if !used {
		err = errNotTerminal
	}
	return "", err
}

// isDial reports whether err says that somebody could not be connected to. It is nothing
// that a client can bring about by what it sends.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// stepOut takes c out of the line, if a panic has left it there. A slot that it was granted
// meanwhile it takes: leave gives that back.
func (c *conn) stepOut() {
	switch {
	case c.granted:
	case c.lock.queue.Leave(&c.place):
		c.lock.noteIdle()
		c.lock.record.noteEnd(clientGone)
		c.outcome = clientGone
	default:
		if p := c.lock.queue.Look(&c.place); p.state == placeHolding {
			c.hold(p)
		}
	}
}

// leave is Handle's end.
func (c *conn) leave(err error) {
	if c.granted {
		c.end(serviceError) // only if a panic has left the slot behind
	}
	if c.counted {
		budget.leave()
	}
	c.closed.Store(true)
	c.exit()
	c.lock.handling.Add(-1)
}

// exit lets go of the lock when the last of those who use it for c is done.
func (c *conn) exit() {
	if c.users.Add(-1) == 0 {
		c.tellEnd()
		c.lock.exit()
	}
}

func (c *conn) workerAddress() string {
	if c.worker == nil {
		return ""
	}
	return c.worker.address
}

// moment says what is known of the connection now.
func (c *conn) moment(on string) Moment {
	reason, _ := c.reason.Load().(string)
	return Moment{
		On:         on,
		Lock:       c.lock.name(),
		Slot:       c.slot,
		Worker:     c.workerAddress(),
		Connection: c.id,
		Client:     c.client,
		Waited:     c.waited,
		Reason:     reason,
	}
}
