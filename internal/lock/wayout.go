package lock

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/relay"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The way out: how a holder's connection gets to the service. The lock connects itself, and knows what has
// happened. Or the next handler connects, and the lock concludes from its calls and its error whether the
// service was reached.

// Requeued is not an outcome: the service could not be reached, and the connection is back in line.
const Requeued = "requeued"

// Serve takes cx, the connection, to the service, and returns when it has ended there. It returns how it has
// ended, or Requeued. If the lock does not connect itself, next does.
func (h *Holder) Serve(cx *layer4.Connection, next layer4.Handler) (outcome string, err error) {
	if h.waiter.config.connects {
		return h.relay(cx)
	}
	return h.lend(cx, next)
}

// relay connects to the service, and copies between it and the client.
func (h *Holder) relay(cx *layer4.Connection) (outcome string, err error) {
	w := h.waiter
	service, err := h.connect()
	if err != nil {
		return h.unreached(err), err
	}
	h.reach(service, cx)
	err = relay.Copy(relayed{cx, w.conn}, service)
	outcome, next := h.served(err)
	next.start()
	return outcome, err
}

// reach is called when the lock has connected to the service.
func (h *Holder) reach(service relay.Service, cx net.Conn) {
	h.begin()
	if version := h.outConfig().settings.proxyVersion(); version != 0 {
		_, _ = service.Write(relay.Header(version, cx.RemoteAddr(), cx.LocalAddr())) // what fails here fails again in the relay
	}
	h.waiter.conn.Reach()
	if h.worker != nil {
		h.worker.Restored()
	}
}

// relayed is the client's side of a relay. Its bytes come from cx, which has those that were read before the
// lock, and then calls conn.
type relayed struct {
	*layer4.Connection
	conn *client.Conn
}

func (r relayed) WriteLast(b []byte) (int, error) { return r.Write(b) }
func (r relayed) CloseWrite() error               { return r.conn.CloseWrite() }
func (r relayed) Lingers() bool                   { return r.conn.Lingers() }
func (r relayed) EndInput()                       { r.conn.EndInput() }
func (r relayed) Discarded(in, out int)           { r.conn.Discarded(in, out) }

// Plain implements relay.Client. Only types of which it is known that they do no more with the bytes than their
// socket are plain.
func (r relayed) Plain() relay.Plain {
	switch r.conn.Conn.(type) {
	case *net.TCPConn, *net.UnixConn, *listen.Conn:
		return r.conn
	}
	return nil
}

// What a matcher has read comes first, and is less than goes through the relay's buffer in any case.
const _ = uint(relay.SpliceAfter - layer4.MaxBufLen)

// detachedClient is the client's side of a relay for a detached connection.
type detachedClient struct{ *client.Conn }

func (c detachedClient) Plain() relay.Plain { return c.Conn }

// connect connects to the service, at the address that is in force since the slot was granted.
func (h *Holder) connect() (relay.Service, error) {
	network, address, err := dial.Address(h.address)
	if err != nil {
		return nil, err // Check has seen to that
	}
	l, start := h.waiter.lock, time.Now()
	service, err := relay.Connect(h, network, address)
	took := time.Since(start)
	if err == nil {
		l.record.Connect.Observe(took.Seconds())
		h.mu.Lock()
		h.connecting = took
		h.mu.Unlock()
		return service, nil
	}
	if failed := new(relay.Error); errors.As(err, &failed) && !h.brokenOff() {
		l.record.ConnectErrors.WithLabelValues(failed.Kind).Inc()
	}
	return nil, err
}

// brokenOff reports whether an attempt that has failed was ended by a kick, or by the end of the lock. The error
// does not tell: when the attempt is over, its context is cancelled in any case.
func (h *Holder) brokenOff() bool { return h.waiter.kicked.Load() || h.waiter.lock.ctx.Err() != nil }

// Context implements relay.Caller. A kick ends the attempt.
func (h *Holder) Context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(h.waiter.lock.ctx, h.outConfig().settings.connectTimeout())
	h.mu.Lock()
	h.giveUp = cancel
	h.mu.Unlock()
	if h.waiter.kicked.Load() {
		cancel()
	}
	return ctx, cancel
}

// outConfig is the config that says how to connect: the one in force, unless a reload has given the lock
// another way out since the connection came.
func (h *Holder) outConfig() *Config {
	if now := h.waiter.lock.current.Load(); now.connects {
		return now
	}
	return h.waiter.config
}

// whereTo returns the address of the service, "" if the lock does not know it. After a reload that gave the
// lock another way out, the slot may have no worker, or one without an address. Then the connection goes where
// the config says by which it came.
func (h *Holder) whereTo() string {
	config := h.waiter.config
	if config.connects {
		config = h.outConfig()
	}
	s := &config.settings
	switch {
	case h.worker != nil && (h.worker.Address != "" || !config.connects):
		return h.worker.Address
	case len(s.Workers) == 0:
		return s.To
	}
	all := s.addresses()
	return all[(h.slot-1)%len(all)]
}

// unreached puts the connection back in line after the lock could not connect to the service.
func (h *Holder) unreached(err error) (outcome string) {
	if h.worker == nil { // the config in force has another way out, and its clients must not wait for this one
		outcome, next := h.served(err)
		next.start()
		return outcome
	}
	if failed := new(relay.Error); errors.As(err, &failed) && failed.Kind == relay.Local {
		h.worker.Spare(err)
	} else if !h.brokenOff() {
		h.worker.Down(err)
		h.waiter.lock.watchOutage()
	}
	h.tryEnd(status.ServiceError, true)
	return h.tryAgain()
}

// tryAgain puts the connection, of which no byte is lost, back in line.
func (h *Holder) tryAgain() (outcome string) {
	h.stopTimer()
	h.uncount()
	_ = h.waiter.lock.runHooks(hook.Release, h)
	return h.requeue()
}

// begin is called when the connection goes to the service. hold_timeout counts from here.
func (h *Holder) begin() {
	w := h.waiter
	if !w.observed { // it may have had an earlier slot, with a worker that could not be reached
		w.observed = true
		w.lock.record.ObserveWait(w.trip.waited)
	}
	h.mu.Lock()
	h.phase, h.connectedAt = phaseConnected, time.Now()
	h.mu.Unlock()
	w.conn.Serve(&h.firstSign)
	w.lock.Publish(w.event(status.EventActivated, ""))
	if d := time.Duration(w.lock.current.Load().settings.HoldTimeout); d > 0 {
		h.timer = time.AfterFunc(d, h.onHoldTimeout)
	}
}

func (h *Holder) stopTimer() {
	if h.timer != nil {
		h.timer.Stop()
	}
}

// served ends the holder after its connection was at the service. It returns what end does.
func (h *Holder) served(err error) (outcome string, next *Waiter) {
	outcome = status.Served
	if err != nil {
		outcome = status.ServiceError
	}
	return outcome, h.end(outcome)
}

// Reached implements client.Observer: the connection has reached the service, as far as that can be told. The
// worker is told at once, unless the holder ends already: then release tells it.
func (h *Holder) Reached() {
	h.mu.Lock()
	first := !h.hasReached && h.phase == phaseConnected
	h.hasReached = true
	h.mu.Unlock()
	if first && h.worker != nil {
		h.worker.Reached()
	}
}

// lend gives the connection to the next handler. If that returns, this means for the proxy: the service has
// closed, and the proxy has closed its socket to it. The error is that of the next handler, or says that
// there is none.
func (h *Holder) lend(cx *layer4.Connection, next layer4.Handler) (outcome string, err error) {
	h.begin()
	attempt := h.waiter.conn.Begin(cx)
	err = next.Handle(cx)
	r := attempt.Classify(err)
	switch {
	case r.Dial: // what was used was a handler before the proxy, such as tls
		h.mu.Lock()
		h.hasReached = false
		h.mu.Unlock()
	case r.Used:
		h.Reached()
		if h.worker != nil {
			h.worker.Succeeded()
		}
	}
	if h.worker != nil && err != nil && !r.Used && (r.Untouched || r.Dial) {
		h.worker.Down(err)
		// No handler has taken a byte of this connection: it can go to another worker.
		if r.Untouched && h.tryEnd(status.ServiceError, true) {
			return h.tryAgain(), err
		}
	}
	outcome, waiter := h.served(err)
	waiter.start()
	if err == nil && !r.Used {
		err = place.ErrNotTerminal
	}
	return outcome, err
}
