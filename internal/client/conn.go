package client

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mholt/caddy-l4/layer4"
)

// Conn is a client's connection, and what the handlers after tcplock get to see of it.
// It knows no lock. Handle's goroutine owns it; the next handler uses it as a net.Conn, from
// goroutines of its own.
type Conn struct {
	net.Conn // as the handler before tcplock left it

	Address string // of the client, as the handlers before tcplock see it
	Outer   *Conn  // the same connection in the lock before this one, if any

	socket  net.Conn        // the innermost connection in reach: deadlines are set here
	raw     syscall.RawConn // the client's socket, nil if it is out of reach
	layered bool            // something that may have read ahead stands above the socket
	Input   input
	wakeUp  wakeUp

	Linger    time.Duration // how long a silent client is read from after the service has closed
	Signs     signs
	Traffic   traffic
	firstSign atomic.Pointer[Observer]  // waits for the first sign of the service; nil: none does
	goneAt    atomic.Pointer[time.Time] // when the client had gone, or was cut; nil: neither is known
}

// input is what Handle's goroutine knows of the client's sending side.
type input struct {
	Drop  bool   // half_closed drop
	fin   bool   // the client's FIN has been seen
	sent  bool   // the client has sent data that is not in its socket any more
	early []byte // some of it, to be read first
}

// signs are what the next handler has shown by its use of the connection.
type signs struct {
	served      atomic.Bool // the connection has been given to the next handler, see serve
	used        atomic.Bool // a handler has used the connection, not only looked at it
	serviceDone atomic.Bool // the service has closed its side
	inputEnded  atomic.Bool // the client has closed its side, or failed
	Retired     atomic.Bool // Handle has returned
}

// traffic counts bytes.
type traffic struct {
	In, Out atomic.Int64 // from and to the client
	unused  atomic.Int64 // of those from the client: read before the connection was used

	// Bytes of a connection that was at the service which were thrown away: from the client,
	// when its slot had been handed on, and to the client, when it had gone.
	DiscardedIn, DiscardedOut atomic.Int64
}

// Observer is told once that a connection has reached the service.
type Observer interface{ Reached() }

func New(cx *layer4.Connection) *Conn {
	matched := len(cx.MatchingBytes())
	c := &Conn{Conn: cx.Conn, Address: clientAddress(cx.RemoteAddr())}
	c.Input.sent = matched > 0
	c.Traffic.In.Store(int64(matched))
	for c.socket = cx.Conn; ; {
		switch below := c.socket.(type) {
		case *layer4.Connection:
			c.socket = below.Conn
			continue
		case *tls.Conn:
			c.layered = true
			c.socket = below.NetConn()
			continue
		case *Conn:
			c.Input.sent = c.Input.sent || len(below.Input.early) > 0
			c.socket = below.Conn
			continue
		case interface{ Raw() net.Conn }: // go-proxyproto
			c.layered = true
			c.socket = below.Raw()
			continue
		case syscall.Conn:
			if canWatch {
				c.raw, _ = below.SyscallConn()
			}
		}
		return c
	}
}

// clientAddress is where a client comes from, for logs and commands. What is not an IP
// address and a port it may have chosen itself, such as the path of a unix socket.
func clientAddress(addr net.Addr) string {
	s := addr.String()
	if _, ok := addr.(*net.TCPAddr); ok {
		return s
	}
	if _, err := netip.ParseAddrPort(s); err != nil {
		return addr.Network()
	}
	return s
}

// IsGone reports whether the client has gone, without waiting and without reading what
// the client has sent. Where that cannot be told it is false.
func (c *Conn) IsGone() bool {
	if c.raw == nil {
		return false
	}
	var seen peer
	if err := c.raw.Control(func(fd uintptr) { seen = look(fd) }); err != nil {
		return true // closed on our side
	}
	return c.classify(seen)
}

// classify decides what it means that the client's socket looks like this.
func (c *Conn) classify(seen peer) (gone bool) {
	switch seen {
	case peerOpen:
		return false
	case peerReset:
		return true
	}
	c.Input.fin = true
	switch {
	case c.Input.sent:
	case c.layered:
		// The layer above may have read ahead, and a FIN with a TLS alert
		// before it is a close with nothing sent. Only a read can tell. It
		// does not block, since all that will ever come has come, and what
		// it yields is kept.
		buf := make([]byte, 1)
		n, _ := c.Conn.Read(buf)
		if n == 0 {
			return true
		}
		c.Input.early, c.Input.sent = buf, true
	case seen == peerClosedEmpty:
		return true
	}
	if !c.Input.Drop {
		c.keep()
	}
	return c.Input.Drop
}

// keep stops the system from asking a client that has closed its side whether it is still
// there. The client's own system may not know any more, on Linux after a minute, and would
// answer with a reset, as if the client had given up what it has sent.
func (c *Conn) keep() {
	if socket, ok := c.socket.(interface{ SetKeepAlive(bool) error }); ok {
		_ = socket.SetKeepAlive(false)
	}
}

// Read reads what the client sends. When the service has closed its side and the
// client has then been silent for linger, that is the end of the input: the proxy
// closes its socket to the service, and the slot comes free.
func (c *Conn) Read(b []byte) (int, error) {
	if c.Signs.Retired.Load() {
		return 0, net.ErrClosed
	}
	if len(c.Input.early) > 0 {
		n := copy(b, c.Input.early)
		c.Input.early = c.Input.early[n:]
		c.take(n)
		return n, nil
	}
	for {
		if c.Signs.serviceDone.Load() {
			// Only a client that is listened to can be silent. Between two reads
			// it is held up by a service that is slow to take what it sends.
			_ = c.socket.SetReadDeadline(time.Now().Add(c.Linger))
		}
		n, err := c.Conn.Read(b)
		if err == nil {
			c.take(n)
			return n, nil
		}
		c.Signs.used.Store(true)
		if !c.Signs.serviceDone.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			c.Signs.inputEnded.Store(true)
			return n, err
		}
		if !c.heard() {
			return n, io.EOF
		}
	}
}

// LingerFor sets how long a silent client is waited for. Of the locks on the connection's
// way the shortest time holds, for all of them: each of them reads through the one before.
func (c *Conn) LingerFor(d time.Duration) {
	if c.Outer != nil {
		d = min(d, c.Outer.Linger)
		c.Outer.LingerFor(d)
	}
	c.Linger = d
}

func (c *Conn) take(n int) {
	c.Traffic.In.Add(int64(n))
	if !c.Signs.used.Load() {
		c.Traffic.unused.Add(int64(n))
	}
}

// heard reports whether the client has sent something within linger that is not to be
// read yet: a part of a TLS record.
func (c *Conn) heard() (heard bool) {
	if !c.layered || c.raw == nil {
		return false
	}
	_ = c.raw.Control(func(fd uintptr) { heard = silence(fd) < c.Linger })
	return heard
}

// Write sends to the client.
func (c *Conn) Write(b []byte) (int, error) {
	if c.Signs.Retired.Load() {
		return 0, net.ErrClosed
	}
	if !c.Signs.used.Load() || c.firstSign.Load() != nil {
		c.use()
	}
	n, err := c.Conn.Write(b)
	c.Traffic.Out.Add(int64(n))
	if err != nil && c.hearOut() {
		c.Traffic.DiscardedOut.Add(int64(len(b) - n))
		return len(b), nil
	}
	return n, err
}

// CloseWrite tells the client that no more will come. The proxy calls it when the
// service has closed its side, which is how the lock learns of that.
func (c *Conn) CloseWrite() error {
	c.use()
	err := closeWrite(c.Conn)
	c.Signs.serviceDone.Store(true)
	_ = c.socket.SetReadDeadline(time.Now().Add(c.Linger))
	return err
}

// SetWriteDeadline is also how a tls.Conn above says that it has sent its last word: its
// CloseWrite ends with a write deadline that has passed, and closes nothing below.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		_ = c.CloseWrite()
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close closes the client's connection.
func (c *Conn) Close() error {
	c.use()
	return c.Conn.Close()
}

// Serve says that the connection goes to the next handler now. o is told at the first sign
// that the service has been reached.
func (c *Conn) Serve(o *Observer) {
	c.Signs.served.Store(true)
	c.firstSign.Store(o)
}

// Unserve takes that back: the worker could not be reached, and the connection waits again.
func (c *Conn) Unserve() {
	c.Signs.served.Store(false)
	c.firstSign.Store(nil)
}

// use notes that a handler writes to the client or closes it. The proxy does neither
// before it is connected to the service, so the first such call of the next handler is
// the earliest sign that the connection has reached the service.
func (c *Conn) use() {
	c.Signs.used.Store(true)
	if o := c.firstSign.Swap(nil); o != nil {
		(*o).Reached()
	}
}

// MarkUsed marks the connection as used in all the locks before this one: the lock itself
// ends it, so the handlers behind those locks are not to blame that no handler used it.
func (c *Conn) MarkUsed() {
	for outer := c.Outer; outer != nil; outer = outer.Outer {
		outer.Signs.used.Store(true)
	}
}

// closeWrite closes the sending side of conn, or of what it wraps: layer4.Connection
// and go-proxyproto's have no CloseWrite of their own, and hide that of the socket.
func closeWrite(conn net.Conn) error {
	for {
		switch c := conn.(type) {
		case interface{ CloseWrite() error }:
			return c.CloseWrite()
		case *layer4.Connection:
			conn = c.Conn
		case interface{ Raw() net.Conn }:
			conn = c.Raw()
		default:
			return errors.ErrUnsupported
		}
	}
}

// Cut ends the connection now, whatever the handlers after tcplock are doing with it.
func (c *Conn) Cut() {
	c.noteGone()
	_ = c.socket.Close()
}

// Bounds of discard: those of nginx's lingering close, well tried.
const (
	discardSilence = 5 * time.Second
	discardTotal   = 30 * time.Second
)

// Discard reads what the client still sends and throws it away, so that closing the
// connection does not reset it: a reset can destroy the end of the reply while it is
// still on its way. It is called when the slot has been given back.
func (c *Conn) Discard() {
	if !c.Signs.serviceDone.Load() || c.Signs.inputEnded.Load() {
		return
	}
	last := time.Now().Add(discardTotal)
	buf := make([]byte, 512) // as a rule there is nothing to come
	from, farewell := c.socket, false
	if c.layered {
		from = c.Conn // what comes by the socket includes the farewell of TLS, which is no loss
	}
	for {
		until := time.Now().Add(discardSilence)
		if until.After(last) {
			until = last
		}
		_ = c.socket.SetReadDeadline(until)
		n, err := from.Read(buf)
		if !farewell && c.Signs.served.Load() { // a refused client speaks to no service
			c.Traffic.DiscardedIn.Add(int64(n))
		}
		switch {
		case err == nil:
		case !c.layered || farewell || errors.Is(err, os.ErrDeadlineExceeded):
			return
		default:
			from, farewell = c.socket, true // TLS has ended, the connection below it may not have
		}
	}
}

// LetGoGrace is how long the service may take to let go of a connection whose client has
// been cut, before its slot is handed on all the same.
const LetGoGrace = 250 * time.Millisecond

// hearOutGrace is how long a service may go on answering a client that has gone, or was
// cut. It is less than LetGoGrace: one that talks on then loses its connection, and has a
// moment left to notice.
const hearOutGrace = LetGoGrace * 4 / 5

// hearOut reports whether the service is to be heard although its client cannot be. If the
// proxy were told at once, it would close its socket and return while the service is in the
// middle of its answer, and the slot's next connection would be one too many for it. Who
// closes in time is seen to close.
func (c *Conn) hearOut() bool {
	return c.Signs.served.Load() && !c.Signs.serviceDone.Load() && c.noteGone() < hearOutGrace
}

// noteGone notes that the client has gone, and returns how long ago that was noted first.
func (c *Conn) noteGone() time.Duration {
	now := time.Now()
	c.goneAt.CompareAndSwap(nil, &now)
	return now.Sub(*c.goneAt.Load())
}

// InputOver reports whether the client has closed its side, or has gone, as far as can be
// seen. It changes nothing, so it may be asked while handlers use the connection.
func (c *Conn) InputOver() bool {
	if c.Signs.inputEnded.Load() || c.raw == nil {
		return c.Signs.inputEnded.Load()
	}
	var seen peer
	err := c.raw.Control(func(fd uintptr) { seen = look(fd) })
	return err != nil || seen != peerOpen
}

// Moved counts the bytes that have moved from and to the client. A handler may be held up
// for long while it writes to a client that takes little at a time: the system knows more
// of that than the handler does.
func (c *Conn) Moved() int64 {
	n := c.Traffic.In.Load() + c.Traffic.Out.Load()
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) { n += taken(fd) })
	}
	return n
}
