package lock

import (
	"maps"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/relay"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A detached connection has no goroutine while it stands in line. Handle duplicates the descriptor of the client's
// socket and returns, and caddy-l4 frees its goroutine and its buffer. From then on events move the connection: one
// goroutine watches all clients in line (package sock), and a slot that is granted gets a goroutine, which runs one
// connection after the other (see runner).

// detaching switches that on. Without it, or with the variable set to "off", Handle's goroutine waits for each
// connection, as it does for those that cannot be detached.
const detaching = true

const detachEnv = "CADDY_TCPLOCK_DETACH"

var mayDetach = sync.OnceValue(func() bool { return detaching && os.Getenv(detachEnv) != "off" && sock.Ready() })

// detachment is what a detached connection has besides its Waiter.
type detachment struct {
	socket  *sock.Conn
	refusal *refusal // nil: a refused connection is closed

	mu     sync.Mutex   // taken before that of the queue
	inLine bool         // it stands in line, and its events are those of a waiter
	over   bool         // it has left the line for good
	timer  *time.Timer  // of wait_timeout; nil: none
	relay  *relay.Relay // nil: it has not been at the service
}

// refusal has what the refuse handlers get of the connection.
type refusal struct {
	handler       layer4.Handler
	logger        *zap.Logger
	vars          map[string]any
	local, remote net.Addr // a socket that was reset does not know them
}

// addressed is a connection with the addresses that it had.
type addressed struct {
	net.Conn
	local, remote net.Addr
}

func (a addressed) LocalAddr() net.Addr  { return a.local }
func (a addressed) RemoteAddr() net.Addr { return a.remote }

// detach detaches the connection if nothing that caddy-l4 has of it is needed any more: no handler before this
// one has wrapped it, read from it, or has something to do when Handle returns.
func (w *Waiter) detach(conn net.Conn) {
	if !w.config.detaches {
		return
	}
	var socket syscall.Conn
	switch conn := conn.(type) {
	case *listen.Conn:
		if conn.Arrival() == 0 {
			return
		}
		socket = conn.TCPConn
	case *net.TCPConn:
		socket = conn
	case *net.UnixConn:
		socket = conn
	default:
		return
	}
	if !w.countClient() {
		return // Join refuses it
	}
	copied, err := sock.Dup(socket)
	if err != nil {
		return // there is no descriptor left: the connection goes on with the one that it has
	}
	w.detachment = &detachment{socket: copied}
	w.conn = client.Over(copied, conn.RemoteAddr())
}

func (w *Waiter) isDetached() bool { return w.detachment != nil }

// JoinDetached takes a detached connection into the line, and returns false for one that is not. Handle must not use
// the connection after that. refusal is for the refused connections, unless it is nil.
func (w *Waiter) JoinDetached(cx *layer4.Connection, priority int, handler layer4.Handler) bool {
	if !w.isDetached() {
		return false
	}
	if handler != nil {
		vars, _ := cx.Context.Value(layer4.VarsCtxKey).(map[string]any)
		w.refusal = &refusal{handler, cx.Logger, maps.Clone(vars), cx.LocalAddr(), cx.RemoteAddr()}
	}
	if outcome := w.enqueue(priority); outcome != "" {
		go w.leave(outcome) // and caddy-l4 closes its descriptor
	}
	return true
}

// take is a listen.Take: Handle without caddy-l4, for a server that gives all its connections to the lock. It runs
// in the goroutine that accepts, so it does not wait.
func (c *Config) take(conn *listen.Conn, priority int) bool {
	w := c.enter(nil)
	if w.detach(conn); !w.isDetached() {
		w.uncount()
		w.exit()
		w.lock.handling.Add(-1)
		return false
	}
	w.came(conn, conn.RemoteAddr())
	defer conn.Close() // its copy stays open
	defer func() {
		if p := recover(); p != nil {
			err := w.Abort(p)
			go func() {
				w.logError(err)
				w.Leave()
			}()
		}
	}()
	if refused, err := w.Check(c, conn); refused {
		go func() {
			w.logError(err)
			w.Leave()
		}()
	} else if outcome := w.enqueue(priority); outcome != "" {
		go w.leave(outcome)
	}
	return true
}

// enqueue takes a detached connection into the line, or to a slot. It returns why it does neither, "" if it
// does.
func (w *Waiter) enqueue(priority int) (outcome string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch outcome = w.Join(priority); {
	case outcome != "":
		w.over = true
	case w.trip.position == 0: // it holds a slot
		w.start()
	default:
		w.wait(w.queued.Joined)
	}
	return outcome
}

// wait is called when the connection stands in line. wait_timeout counts from since. The mutex is held, since a slot
// may have been granted already, and the goroutine of the slot has to wait until all of this is done.
func (w *Waiter) wait(since time.Time) {
	w.inLine = true
	w.watch()
	if w.waitTimeout > 0 {
		w.timer = time.AfterFunc(time.Until(since.Add(w.waitTimeout)), func() { w.leaveLine(status.WaitTimeout) })
	}
}

// endWait is called when the connection does not stand in line any more. The mutex is held.
func (w *Waiter) endWait() {
	w.inLine = false
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// waitAgain is called when the connection has gone back in line. It may have left it again by now.
func (w *Waiter) waitAgain() {
	w.mu.Lock()
	if q := w.lock.queue.Load(&w.queued); q.State == queue.Waiting && !w.inLine {
		w.wait(q.Joined.Add(q.Apart))
	}
	w.mu.Unlock()
	if w.kicked.Load() {
		w.leaveLine(status.Kicked)
	}
}

// SocketReady implements sock.Observer.
func (w *Waiter) SocketReady() {
	defer w.rescue()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.relay != nil && w.conn.TryEnd():
		w.relay.SendEnd()
	case w.relay != nil:
		w.relay.Send()
	case w.inLine:
		hadEnded := w.conn.Input.Fin
		if w.conn.IsGone() {
			go w.leaveLine(status.ClientGone)
		} else if !hadEnded || !w.conn.Input.Fin { // else it would end again at once: on a unix socket that lasts
			w.watch()
		}
	}
}

// watch has SocketReady called when the client ends, or when it breaks the connection after an end that half_closed
// keeps. If that cannot be, the lock sees that the client has gone when it has a slot.
func (w *Waiter) watch() {
	events := sock.EndOf
	if w.conn.Input.Fin {
		events = sock.Hangup
	}
	_ = w.socket.Watch(w, events)
}

// leaveLine ends a connection if it stands in line.
func (w *Waiter) leaveLine(outcome string) {
	w.mu.Lock()
	left := w.lock.queue.Leave(&w.queued)
	if left {
		w.over = true
		w.endWait()
	}
	w.mu.Unlock()
	if w.kicked.Load() { // when it had a slot, but its worker could not be reached
		outcome = status.Kicked
	}
	if left { // else it has been granted a slot, or has left already
		w.trip.waited = w.inLineFor(time.Now())
		w.lock.noteIdle()
		w.leave(outcome)
	}
}

// leaveTurnedAway ends a connection that was taken out of the line, or that was kicked while it went back there.
func (w *Waiter) leaveTurnedAway() {
	w.mu.Lock()
	outcome := w.whyGone(w.lock.queue.Load(&w.queued))
	first := outcome != "" && !w.over
	if first {
		w.over = true
		w.endWait()
	}
	w.mu.Unlock()
	switch {
	case first:
		w.leave(outcome)
	case w.kicked.Load():
		w.leaveLine(status.Kicked)
	}
}

// leave refuses a connection that does not reach the service, and ends it.
func (w *Waiter) leave(outcome string) {
	defer w.Leave()
	defer w.rescue()
	w.logError(w.Refuse(outcome, w.answer()))
}

// answer returns a function that runs the refuse handlers, or nil if there are none.
func (w *Waiter) answer() func() error {
	r := w.refusal
	if r == nil {
		return nil
	}
	return func() error {
		cx := layer4.WrapConnection(addressed{w.conn, r.local, r.remote}, nil, r.logger)
		for name, value := range r.vars {
			cx.SetVar(name, value)
		}
		return r.handler.Handle(w.Wrap(cx))
	}
}

// rescue is deferred where no other code may be harmed by a panic that one connection causes: it ends the
// connection.
func (w *Waiter) rescue() {
	if p := recover(); p != nil {
		err := w.panicked(p)
		go func() {
			w.conn.Cut()
			w.logError(err)
			w.leaveLine(status.ClientGone)
		}()
	}
}

// logError logs an error as caddy-l4 does for a connection of which Handle returns one.
func (w *Waiter) logError(err error) {
	if err != nil {
		w.log(zapcore.ErrorLevel, "handling connection", zap.Error(err))
	}
}
