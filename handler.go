package tcplock

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/mholt/caddy-l4/layer4"
)

// Handle takes a connection through the lock: into the line, through the activate
// hooks, to the next handler, and out again.
func (h *Handler) Handle(cx *layer4.Connection, next layer4.Handler) (err error) {
	w := newWaiter(h.claim.enter(), cx)
	defer w.leave()
	defer func() {
		if r := recover(); r != nil {
			// A panic that one client causes must not end the process, and keeps no slot.
			err = fmt.Errorf("panic behind lock %s: %v\n%s", w.lock.name(), r, debug.Stack())
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
			view = wrap(cx, w) // not before, since that takes memory, and the line may be long
		}
		if outcome == "" {
			outcome = holder.activate()
		}
		if outcome == "" {
			outcome, err = serve(holder, view, next)
		}
		switch outcome {
		case served, serviceError:
			w.conn.discard() // off the slot, so that the end of the reply is not reset away
			return err
		case workerDown: // the connection is back in line, where it stood
			outcome = ""
		default:
			return h.refuse(w, view, outcome)
		}
	}
}

// checkConnection refuses a connection that must not even join.
func (h *Handler) checkConnection(cx *layer4.Connection, w *waiter) (refused bool, err error) {
	if err := w.lock.provide(h.claim); err != nil {
		return true, err
	}
	if err := w.checkNesting(); err != nil {
		return true, err
	}
	err = headerError(cx.Conn)
	switch {
	case err == nil:
		return false, nil
	case !w.lock.refusals.allow():
		return true, nil // the error would be a line in the log
	}
	return true, fmt.Errorf("PROXY header from %s: %w", w.conn.address, err)
}

// serve lends the connection to the next handler. The handler's return, hold_timeout and an
// operator can end the holder: the first of them does, see holder.
func serve(h *holder, cx *layer4.Connection, next layer4.Handler) (outcome string, err error) {
	h.connect()
	if d := time.Duration(h.waiter.lock.inForce.Load().settings.HoldTimeout); d > 0 {
		defer time.AfterFunc(d, h.onHoldTimeout).Stop()
	}
	try := begin(h.waiter.conn, cx)
	err = next.Handle(cx)
	result := try.classify(err)
	if outcome = h.finish(result, err); outcome == served && err == nil && !result.used {
		err = errNotTerminal
	}
	return outcome, err
}

// attempt is one call of the next handler.
type attempt struct {
	conn            *clientConn
	cx              *layer4.Connection
	unused, matched int64 // see result.untouched
}

// result is what one call of the next handler has come to, as far as the lock can tell.
type result struct {
	used      bool // the handler has used the connection: it has reached the service
	dial      bool // the handler could not connect to the service
	untouched bool // all bytes of the client are still there for another attempt
}

func begin(conn *clientConn, cx *layer4.Connection) attempt {
	return attempt{conn, cx, conn.traffic.unused.Load(), int64(len(cx.MatchingBytes()))}
}

func (a attempt) classify(err error) result {
	after := begin(a.conn, a.cx)
	return result{
		used:      a.conn.signs.used.Load(),
		dial:      isDial(err),
		untouched: after.unused-a.unused+a.matched-after.matched == 0,
	}
}

// isDial reports whether err says that somebody could not be connected to. It is nothing
// that a client can bring about by what it sends.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// refuse ends a connection that does not reach the service.
func (h *Handler) refuse(w *waiter, cx *layer4.Connection, outcome string) error {
	granted := w.holder.Load() != nil
	if !granted { // else releasing the slot does that
		w.trip.outcome = outcome
		w.lock.record.noteEnd(outcome)
		w.trip.quiet = !w.lock.refusals.allow()
	}
	if outcome == clientGone || outcome == kicked && granted { // a connection that is kicked from its slot has been cut
		return nil
	}
	w.conn.markUsed()
	w.trip.refused = outcome
	w.lock.happened(w.event(eventRefused, outcome))
	w.lock.refused(w)
	if h.refusal == nil {
		return nil
	}
	quiet := w.trip.quiet
	w.conn.linger = 0 // it keeps no slot, but a seat that others may need
	kept, err := w.conn.beRefused(cx, h.refusal)
	if !kept {
		return nil // it was cut for another connection's sake, if it ever got a seat
	}
	// The end of the answer has a share of its own, or the next one would have to wait for
	// clients that are slow to take it.
	if seat := budget.drains.enter(w.conn); seat != nil {
		defer budget.drains.leave(seat)
		w.conn.discard()
	}
	if quiet {
		return nil // an error would be a line in the log as well
	}
	return err
}

// beRefused has the refuse handlers answer, if there is a seat for that, and reports whether
// the connection had it to the end.
func (c *clientConn) beRefused(cx *layer4.Connection, refuse layer4.Handler) (kept bool, err error) {
	seat := budget.refusals.enter(c)
	if seat == nil {
		return false, nil
	}
	defer func() { kept = budget.refusals.leave(seat) }()
	return true, refuse.Handle(cx)
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

// wrap makes the connection known to the handlers to come, and returns it as they see it.
func wrap(cx *layer4.Connection, w *waiter) *layer4.Connection {
	cx.SetVar(connVar, w)
	if w.outer != nil { // the lock before this one has added the placeholders
		return cx.Wrap(w.conn)
	}
	cx.Replacer().Map(func(key string) (any, bool) {
		name, ours := strings.CutPrefix(key, "l4.tcplock.")
		if !ours {
			return nil, false
		}
		value, ok := cx.GetVar(connVar).(*waiter).moment("").values()[name]
		return value, ok
	})
	return cx.Wrap(w.conn)
}

// connVar names the connection variable that holds the connection's newest waiter.
const connVar = "l4.tcplock.conn"
