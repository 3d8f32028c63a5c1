package tcplock

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mholt/caddy-l4/layer4"
)

// conn is a client's connection on its way through a lock, and what the handlers
// after tcplock get to see of it.
type conn struct {
	net.Conn // as the handler before tcplock left it

	lock   *lock
	client string // its address, as the handlers before tcplock see it
	outer  *conn  // the connection's way through a lock before this one, if any
	place  place

	// The client's side: see park, judge and Read.
	socket  net.Conn        // the innermost connection in reach: deadlines are set here
	raw     syscall.RawConn // the client's socket, nil if it is out of reach
	layered bool            // something that may have read ahead stands above the socket
	drop    bool            // half_closed drop
	fin     bool            // the client's FIN has been seen
	sent    bool            // the client has sent data that is not in its socket any more
	early   []byte          // some of it, to be read first
	wakeUp  wakeUp

	// What it was granted: written before it is served.
	granted bool
	counted bool // its client is in the budget of descriptors
	serving bool // its socket to the service is
	slot    int
	worker  *worker // what stands behind the slot, nil if the lock does not know
	waited  time.Duration

	// What is told of it.
	id       uint64        // running number of those who came to the lock; 0 if it could not even join
	position int           // in line when it came, from 1; 0 if it did not have to wait
	phase    atomic.Value  // string: its state, when it holds a slot
	letIn    time.Time     // when it was let through to the service; zero: it was not, or to a worker that could not be reached
	noted    bool          // how long it has waited is in the metrics
	tallies  []tally       // where activate hooks have counted it
	counts   bool          // it has reached the service, as far as that can be told: every <n> counts it
	hooked   time.Duration // how long its hooks have run
	held     time.Duration // how long it was at the service
	in, out  atomic.Int64  // bytes from and to the client
	outcome  string        // how it ended, when that is settled; empty: it did not even join
	quiet    bool          // it has no line in the log, since there are too many like it

	// Bytes of a connection that was at the service which were thrown away: from the client,
	// when its slot had been handed on, and to the client, when it had gone.
	discardedIn, discardedOut atomic.Int64

	// The service's side.
	waitTimeout time.Duration
	linger      time.Duration
	serviceDone atomic.Bool  // the service has closed its side
	inputEnded  atomic.Bool  // the client has closed its side, or failed
	used        atomic.Bool  // somebody has used the connection, not only looked at it
	reached     atomic.Bool  // the connection has reached the service, see use
	closed      atomic.Bool  // Handle has returned: what comes now comes unguarded
	taken       atomic.Int64 // bytes of the client's read before it was used

	// The end. Whoever turns over from false to true gives the slot back.
	over     atomic.Pointer[atomic.Bool] // the slot is on its way back; a new one for each slot
	kicked   atomic.Bool                 // an operator has thrown it out
	reason   atomic.Value                // string
	goneAt   atomic.Pointer[time.Time]   // when the client had gone, or was cut; nil: not that it is known
	users    atomic.Int32                // who uses the lock for this connection
	mu       sync.Mutex                  // guards what is below
	back     chan struct{}               // closed when the next handler has returned, if not nil
	returned bool                        // it has
	leftOver bool                        // it had not when the slot was given back
}

func newConn(cx *layer4.Connection, l *lock) *conn {
	c := &conn{Conn: cx.Conn, lock: l, client: clientAddress(cx.RemoteAddr()), sent: len(cx.MatchingBytes()) > 0}
	c.place.owner, c.place.client = c, clientOf(cx.RemoteAddr())
	c.users.Store(1)
	c.in.Store(int64(len(cx.MatchingBytes())))
	l.handling.Add(1)
	for c.socket = cx.Conn; ; {
		switch below := c.socket.(type) {
		case *layer4.Connection:
			c.socket = below.Conn
			continue
		case *tls.Conn:
			c.layered = true
			c.socket = below.NetConn()
			continue
		case *conn:
			c.sent = c.sent || len(below.early) > 0
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

// state is what c does with its slot.
func (c *conn) state() string {
	if phase, ok := c.phase.Load().(string); ok {
		return phase
	}
	return stateActivating // it has been granted one, and does not know it yet
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

// gone reports whether the client has gone, without waiting and without reading what
// the client has sent. Where that cannot be told it is false.
func (c *conn) gone() bool {
	if c.raw == nil {
		return false
	}
	var seen peer
	if err := c.raw.Control(func(fd uintptr) { seen = look(fd) }); err != nil {
		return true // closed on our side
	}
	return c.judge(seen)
}

// judge decides what it means that the client's socket looks like this.
func (c *conn) judge(seen peer) (gone bool) {
	switch seen {
	case peerOpen:
		return false
	case peerReset:
		return true
	}
	c.fin = true
	switch {
	case c.sent:
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
		c.early, c.sent = buf, true
	case seen == peerClosedEmpty:
		return true
	}
	if !c.drop {
		c.keep()
	}
	return c.drop
}

// keep stops the system from asking a client that has closed its side whether it is still
// there. The client's own system may not know any more, on Linux after a minute, and would
// answer with a reset, as if the client had given up what it has sent.
func (c *conn) keep() {
	if socket, ok := c.socket.(interface{ SetKeepAlive(bool) error }); ok {
		_ = socket.SetKeepAlive(false)
	}
}

// Read reads what the client sends. When the service has closed its side and the
// client has then been silent for linger, that is the end of the input: the proxy
// closes its socket to the service, and the slot comes free.
func (c *conn) Read(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		c.take(n)
		return n, nil
	}
	for {
		if c.serviceDone.Load() {
			// Only a client that is listened to can be silent. Between two reads
			// it is held up by a service that is slow to take what it sends.
			_ = c.socket.SetReadDeadline(time.Now().Add(c.linger))
		}
		n, err := c.Conn.Read(b)
		if err == nil {
			c.take(n)
			return n, nil
		}
		c.used.Store(true)
		if !c.serviceDone.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			c.inputEnded.Store(true)
			return n, err
		}
		if !c.heard() {
			return n, io.EOF
		}
	}
}

// lingerFor sets how long a silent client is waited for. Of the locks on the connection's
// way the shortest time holds, for all of them: each of them reads through the one before.
func (c *conn) lingerFor(d time.Duration) {
	if c.outer != nil {
		d = min(d, c.outer.linger)
		c.outer.lingerFor(d)
	}
	c.linger = d
}

func (c *conn) take(n int) {
	c.in.Add(int64(n))
	if !c.used.Load() {
		c.taken.Add(int64(n))
	}
}

// heard reports whether the client has sent something within linger that is not to be
// read yet: a part of a TLS record.
func (c *conn) heard() (heard bool) {
	if !c.layered || c.raw == nil {
		return false
	}
	_ = c.raw.Control(func(fd uintptr) { heard = silence(fd) < c.linger })
	return heard
}

// Write sends to the client.
func (c *conn) Write(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if !c.reached.Load() {
		c.use()
	}
	n, err := c.Conn.Write(b)
	c.out.Add(int64(n))
	if err != nil && c.hearOut() {
		c.discardedOut.Add(int64(len(b) - n))
		return len(b), nil
	}
	return n, err
}

// CloseWrite tells the client that no more will come. The proxy calls it when the
// service has closed its side, which is how the lock learns of that.
func (c *conn) CloseWrite() error {
	c.use()
	err := closeWrite(c.Conn)
	c.serviceDone.Store(true)
	_ = c.socket.SetReadDeadline(time.Now().Add(c.linger))
	return err
}

// SetWriteDeadline is also how a tls.Conn above says that it has sent its last word: its
// CloseWrite ends with a write deadline that has passed, and closes nothing below.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		_ = c.CloseWrite()
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close closes the client's connection.
func (c *conn) Close() error {
	c.use()
	return c.Conn.Close()
}

// use notes that a handler writes to the client or closes it. The proxy does neither
// before it is connected to the service, so the first such call of the next handler is
// the earliest sign that the connection has reached the service. A refuse handler writes
// too, but not in the connected phase.
func (c *conn) use() {
	c.used.Store(true)
	if c.phase.Load() == stateConnected {
		c.reach()
	}
}

// reach notes that the connection has reached the service, and tells the worker the first
// time, unless the slot is on its way back already: then it is told with the end.
func (c *conn) reach() {
	if c.reached.CompareAndSwap(false, true) && c.worker != nil && !c.over.Load().Load() {
		c.worker.reached()
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

// cut ends the connection now, whatever the handlers after tcplock are doing with it.
func (c *conn) cut() {
	c.noteGone()
	_ = c.socket.Close()
}

// Bounds of discard: those of nginx's lingering close, well tried.
const (
	discardSilence = 5 * time.Second
	discardTotal   = 30 * time.Second
)

// discard reads what the client still sends and throws it away, so that closing the
// connection does not reset it: a reset can destroy the end of the reply while it is
// still on its way. It is called when the slot has been given back.
func (c *conn) discard() {
	if !c.serviceDone.Load() || c.inputEnded.Load() {
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
		if !farewell && !c.letIn.IsZero() { // a refused client speaks to no service
			c.discardedIn.Add(int64(n))
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
