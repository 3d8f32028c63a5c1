// Package client watches and wraps the client's side of a connection. It tells when a client has
// gone, parks the goroutine of a waiter, counts bytes, and sees from the calls of the next handler
// whether the connection has reached the service.
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

	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

// Conn is a client's connection, as the handlers after tcplock get it. It knows nothing of locks.
// The goroutine of Handle owns it; the next handler uses it as a net.Conn, from goroutines of its
// own.
type Conn struct {
	net.Conn // as the handler before tcplock left it

	Address string // of the client, as the handlers before tcplock see it
	Outer   *Conn  // the same connection in the lock before this one; nil: there is none

	socket  net.Conn        // the innermost connection in reach: deadlines are set here
	raw     syscall.RawConn // the client's socket, nil if it is out of reach
	layered bool            // there is a layer above the socket that may have read ahead
	Input   input
	wakeUp  wakeUp

	Linger    time.Duration // how long to read from a silent client after the service has closed
	Signs     signs
	Traffic   traffic
	firstSign atomic.Pointer[Observer]  // to call at the first sign of the service; nil: none
	goneAt    atomic.Pointer[time.Time] // when the client went or was cut; nil: not seen so far
}

// input is what the goroutine of Handle knows of the client's sending side.
type input struct {
	Drop  bool   // half_closed drop: a FIN counts as the end of the connection
	Fin   bool   // the client's FIN has been seen
	sent  bool   // the client has sent data that is no longer in its socket
	early []byte // a part of that data, which Read returns first
}

// signs are what the calls of the next handler tell about it and the service.
type signs struct {
	served       atomic.Bool // the connection was passed to the next handler, see Serve
	used         atomic.Bool // a handler has used the connection, not only inspected it
	serviceDone  atomic.Bool // the service has closed its side
	inputEnded   atomic.Bool // the client has closed its side, or failed
	inputUseless atomic.Bool // no service takes what the client sends, see EndInput
	Retired      atomic.Bool // Handle has returned
}

// traffic counts bytes.
type traffic struct {
	In, Out atomic.Int64 // from and to the client
	unused  atomic.Int64 // the part of In that was read before the connection was used

	// Bytes that were thrown away although the connection had been at the service: In after the
	// slot was released, Out after the client had gone.
	DiscardedIn, DiscardedOut atomic.Int64
}

// Observer learns that a connection has reached the service. Reached is called once at most.
type Observer interface{ Reached() }

// New wraps the client's connection in cx.
func New(cx *layer4.Connection) *Conn {
	matched := len(cx.MatchingBytes())
	c := &Conn{Conn: cx.Conn, Address: clientAddress(cx.RemoteAddr())}
	c.Input.sent = matched > 0
	c.Traffic.In.Store(int64(matched))
	c.socket = cx.Conn
	for below := under(c.socket); below != nil; below = under(c.socket) {
		if outer, ok := c.socket.(*Conn); ok {
			c.Input.sent = c.Input.sent || len(outer.Input.early) > 0
		} else if _, ok := c.socket.(*layer4.Connection); !ok {
			c.layered = true
		}
		c.socket = below
	}
	if socket, ok := c.socket.(syscall.Conn); ok && canWatch {
		c.raw, _ = socket.SyscallConn()
	}
	return c
}

// Over wraps a client's connection that has come to no handler but this one, and from which nothing was read.
func Over(socket *sock.Conn, address net.Addr) *Conn {
	c := &Conn{Conn: socket, socket: socket, Address: clientAddress(address)}
	c.raw, _ = socket.SyscallConn()
	return c
}

// under returns the connection that conn wraps, nil if conn wraps none that is in reach.
func under(conn net.Conn) net.Conn {
	switch conn := conn.(type) {
	case *layer4.Connection:
		return conn.Conn
	case *Conn:
		return conn.Conn
	case *tls.Conn:
		return conn.NetConn()
	case interface{ Raw() net.Conn }: // go-proxyproto
		return conn.Raw()
	}
	return nil
}

// clientAddress is the address of a client for logs and commands. If it is not an IP address and a
// port, such as the path of a unix socket, the client may have chosen it itself. Then only the
// network is shown.
func clientAddress(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.String()
	}
	s := addr.String()
	if _, err := netip.ParseAddrPort(s); err != nil {
		return addr.Network()
	}
	return s
}

// IsGone reports whether the client has gone. It does not wait, and takes nothing of what the
// client has sent. Where the system does not tell, it returns false.
func (c *Conn) IsGone() bool { return c.raw != nil && c.classify(c.look()) }

// look returns the state of the client's socket.
func (c *Conn) look() (seen peer) {
	if err := c.raw.Control(func(fd uintptr) { seen = look(fd) }); err != nil {
		return peerReset // closed on our side
	}
	return seen
}

// classify decides whether a client whose socket is in this state has gone.
func (c *Conn) classify(seen peer) (gone bool) {
	switch seen {
	case peerOpen:
		return false
	case peerReset:
		return true
	}
	c.Input.Fin = true
	switch {
	case c.Input.sent:
	case c.layered:
		// The layer above may have read ahead, and a TLS alert before the FIN is not
		// data. Only a read can tell. It does not block, since nothing can come after
		// the FIN. The byte that it returns is kept.
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

// keep turns keep-alive off for a client that has closed its side. The client's own system may
// forget the connection, on Linux after a minute. It would answer a probe with a reset, as if the
// client had given up what it has sent.
func (c *Conn) keep() {
	if socket, ok := c.socket.(interface{ SetKeepAlive(bool) error }); ok {
		_ = socket.SetKeepAlive(false)
	}
}

// Read reads what the client sends. Once the service has closed its side and the client has been
// silent for Linger, Read returns io.EOF. Then the proxy closes its socket to the service, and the
// slot comes free. After Handle has returned, Read returns net.ErrClosed.
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
	return c.ReadBy(func() (int, error) { return c.Conn.Read(b) })
}

// ReadBy does what Read does, and take takes the bytes from the connection, wherever they go.
func (c *Conn) ReadBy(take func() (int, error)) (int, error) {
	for {
		if c.Signs.serviceDone.Load() {
			// The time runs only during a read. Between two reads the client may have
			// to wait for a service that is slow to take what it sends.
			_ = c.socket.SetReadDeadline(time.Now().Add(c.Linger))
		}
		if c.Signs.inputUseless.Load() { // it is set before EndInput sets the deadline
			return 0, io.EOF
		}
		n, err := take()
		if err == nil {
			c.take(n)
			return n, nil
		}
		c.Signs.used.Store(true)
		if !c.Signs.serviceDone.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			c.Signs.inputEnded.Store(true)
			return n, err
		}
		if c.Signs.inputUseless.Load() || !c.heard() {
			return n, io.EOF
		}
	}
}

// TryRead is Read that does not wait: it returns sock.ErrNotNow if there is nothing to read. It is for the
// connections of Over.
func (c *Conn) TryRead(b []byte) (n int, err error) {
	n, err = c.socket.(*sock.Conn).TryRead(b)
	c.take(n)
	return n, err
}

// TryEnd reports whether the client has closed its side, and everything that it has sent was read. Then Read need
// not be called.
func (c *Conn) TryEnd() bool {
	if c.raw == nil || c.look() != peerClosedEmpty {
		return false
	}
	c.Signs.used.Store(true)
	c.Signs.inputEnded.Store(true)
	return true
}

// Lingers reports whether Read waits for a silent client after the service has closed its side.
func (c *Conn) Lingers() bool { return c.Linger > 0 }

// Discarded counts bytes that have come from the client or from the service, and go to none.
func (c *Conn) Discarded(in, out int) {
	c.Traffic.DiscardedIn.Add(int64(in))
	c.Traffic.DiscardedOut.Add(int64(out))
}

// LingerFor sets Linger in this lock and all outer ones. The shortest time of all these locks
// holds for each of them, since each reads through the one before.
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

// heard reports whether the client has sent something within Linger that cannot be read yet: a
// part of a TLS record.
func (c *Conn) heard() (heard bool) {
	if !c.layered || c.raw == nil {
		return false
	}
	_ = c.raw.Control(func(fd uintptr) {
		_, silence := delivery(fd)
		heard = silence < c.Linger
	})
	return heard
}

// Write sends to the client. While the service may still finish its answer to a client that has
// gone, Write throws the bytes away and reports success (see hearOut). After Handle has returned,
// it returns net.ErrClosed.
func (c *Conn) Write(b []byte) (int, error) { return c.write(b, c.Conn.Write) }

// WriteLast is Write just before CloseWrite.
func (c *Conn) WriteLast(b []byte) (int, error) {
	if s, ok := c.Conn.(*sock.Conn); ok {
		return c.write(b, s.WriteLast)
	}
	return c.Write(b)
}

func (c *Conn) write(b []byte, write func([]byte) (int, error)) (int, error) {
	if c.Signs.Retired.Load() {
		return 0, net.ErrClosed
	}
	if !c.Signs.used.Load() || c.firstSign.Load() != nil {
		c.use()
	}
	n, err := write(b)
	c.Traffic.Out.Add(int64(n))
	if err != nil && c.hearOut() {
		c.Traffic.DiscardedOut.Add(int64(len(b) - n))
		return len(b), nil
	}
	return n, err
}

// Wrote counts bytes that have gone to the client's socket, and not through Write.
func (c *Conn) Wrote(n int) { c.Traffic.Out.Add(int64(n)) }

// Socket is the client's socket, nil if it is out of reach. It is no SyscallConn, since other handlers must not
// go past Read and Write.
func (c *Conn) Socket() syscall.RawConn { return c.raw }

// CloseWrite tells the client that no more will come. The proxy calls it when the service has
// closed its side: that is how the lock learns of it.
func (c *Conn) CloseWrite() error {
	c.use()
	err := closeWrite(c.Conn)
	c.Signs.serviceDone.Store(true)
	_ = c.socket.SetReadDeadline(time.Now().Add(c.Linger))
	return err
}

// EndInput ends Read, now and from now on, in this lock and in all outer ones.
func (c *Conn) EndInput() {
	for o := c; o != nil; o = o.Outer {
		o.Signs.inputUseless.Store(true)
	}
	_ = c.socket.SetReadDeadline(time.Unix(1, 0))
}

// SetWriteDeadline treats a deadline in the past as CloseWrite. The CloseWrite of a tls.Conn above
// sets such a deadline after its last record, and does not close what is below it.
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

// Serve is called before the connection goes to the next handler. At the first sign that the
// connection has reached the service, o is called. With nil, the connection waits again.
func (c *Conn) Serve(o *Observer) {
	c.Signs.served.Store(o != nil)
	c.firstSign.Store(o)
}

// Reach is called when the lock itself has connected to the service. Then there is nothing to conclude from
// the calls of a handler, in this lock and in all outer ones.
func (c *Conn) Reach() {
	for ; c != nil; c = c.Outer {
		c.use()
	}
}

// use is called when a handler writes to the client or closes it. The proxy does neither before it
// is connected to the service. So the first such call is the earliest sign that the connection has
// reached the service.
func (c *Conn) use() {
	c.Signs.used.Store(true)
	if o := c.firstSign.Swap(nil); o != nil {
		(*o).Reached()
	}
}

// MarkUsed marks the connection as used in all outer locks. This lock ends it, so it is not the
// fault of the handlers after the outer locks that none of them has used it.
func (c *Conn) MarkUsed() {
	for outer := c.Outer; outer != nil; outer = outer.Outer {
		outer.Signs.used.Store(true)
	}
}

// closeWrite closes the sending side of conn, or of what it wraps. layer4.Connection and the
// connection of go-proxyproto have no CloseWrite, and hide that of the socket.
func closeWrite(conn net.Conn) error {
	for ; conn != nil; conn = under(conn) {
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			return c.CloseWrite()
		}
	}
	return errors.ErrUnsupported
}

// Cut ends the connection now, whatever the handlers after tcplock are doing with it.
func (c *Conn) Cut() {
	c.noteGone()
	if s, ok := c.socket.(*sock.Conn); ok {
		_ = s.Shutdown() // which its watcher sees
		return
	}
	_ = c.socket.Close()
}

// LetGoGrace is how long the service may take to close a connection whose client was cut. After
// that the slot is released even if the service has not closed.
const LetGoGrace = 250 * time.Millisecond

// hearOutGrace is how long a service may go on answering a client that has gone or was cut. It is
// less than LetGoGrace, so that a service that goes on longer loses its connection, and has a
// moment left to notice before the slot is released.
const hearOutGrace = LetGoGrace * 4 / 5

// hearOut reports whether the service may finish its answer although the client cannot get it. If
// the proxy got the error at once, it would close its socket and return in the middle of the
// answer. The slot's next connection would then come while the service is still busy with this
// one. A service that closes within hearOutGrace is seen to close.
func (c *Conn) hearOut() bool {
	return c.Signs.served.Load() && !c.Signs.serviceDone.Load() && c.noteGone() < hearOutGrace
}

// noteGone records that the client has gone, and returns how long ago it was first called.
func (c *Conn) noteGone() time.Duration {
	now := time.Now()
	c.goneAt.CompareAndSwap(nil, &now)
	return now.Sub(*c.goneAt.Load())
}

// InputOver reports whether the client has closed its side or has gone, as far as the system
// tells. It changes nothing, so it may be called while handlers use the connection.
func (c *Conn) InputOver() bool {
	return c.Signs.inputEnded.Load() || c.raw != nil && c.look() != peerOpen
}

// Moved is the number of bytes that have moved from and to the client. One write to a client that
// takes little at a time may last long. So Moved adds the bytes that the system has delivered,
// where it tells: they grow even while the write lasts.
func (c *Conn) Moved() int64 {
	n := c.Traffic.In.Load() + c.Traffic.Out.Load()
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) {
			acked, _ := delivery(fd)
			n += acked
		})
	}
	return n
}
