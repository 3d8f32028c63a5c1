// Package sock has connections that join Go's poller only when a goroutine has to wait for them. Until then
// a connection is a descriptor and a small struct, and one goroutine watches all of them.
package sock

import (
	"cmp"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supported says whether this system has such connections.
const Supported = true

// Conn is a connection. Several goroutines may use it. Its first Read, or the first Write that has to wait, puts the
// socket into Go's poller, for good.
//
// The mutex is held over system calls, but over none that waits for the peer. So the descriptor is not closed, and its
// number not taken by another file, while a call uses it.
type Conn struct {
	mu       sync.Mutex
	fd       int32    // -1: closed
	token    uint32   // of its entry in the watcher's table; 0: it has none
	file     *os.File // owns the descriptor, and waits; nil: no call has had to wait so far
	readBy   int64    // the deadline of Read, as long as there is no file: nanoseconds since 1970; 0: none
	observer Observer // see Watch
}

// ErrNotNow is the error of a call that would have to wait.
var ErrNotNow error = unix.EAGAIN

// New returns a connection that owns fd, which must be non-blocking.
func New(fd int) *Conn { return &Conn{fd: int32(fd)} }

// Dup returns a connection with a descriptor of its own for the socket of conn. When conn is closed, the
// connection stays open.
func Dup(conn syscall.Conn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = raw.Control(func(from uintptr) { fd, failed = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err = cmp.Or(err, failed); err != nil {
		return nil, err
	}
	return New(fd), nil
}

// TryRead is Read that does not wait: if there is nothing to read, it returns ErrNotNow.
func (c *Conn) TryRead(b []byte) (n int, err error) {
	closed := c.Control(func(fd uintptr) { n, err = read(int(fd), b) })
	return n, cmp.Or(closed, err)
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (n int, err error) {
	failed := rawConn{c}.Read(func(fd uintptr) bool {
		n, err = read(int(fd), b)
		return err != ErrNotNow
	})
	return n, cmp.Or(failed, err)
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) { return c.write(b, 0) }

// WriteLast is Write just before CloseWrite: the system may send both in one packet.
func (c *Conn) WriteLast(b []byte) (int, error) { return c.write(b, unix.MSG_MORE) }

func (c *Conn) write(b []byte, flags int) (written int, err error) {
	c.mu.Lock()
	for c.file == nil && c.fd >= 0 && err == nil && written < len(b) {
		var n int
		n, err = send(int(c.fd), b[written:], flags)
		written += n
	}
	c.mu.Unlock()
	if written == len(b) || err != nil && err != ErrNotNow {
		return written, err
	}
	file, err := c.wait()
	if err != nil {
		return written, err
	}
	n, err := file.Write(b[written:])
	return written + n, err
}

// wait returns the connection as a file in Go's poller. That ends Watch, so the observer is told: it cannot hear
// of what comes from now on.
func (c *Conn) wait() (*os.File, error) {
	file, o, err := c.toFile()
	if o != nil {
		o.SocketReady()
	}
	return file, err
}

func (c *Conn) toFile() (file *os.File, watching Observer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil, nil, net.ErrClosed
	}
	if c.file == nil {
		if c.token != 0 {
			watching = c.observer
		}
		c.unwatch()
		c.file = os.NewFile(uintptr(c.fd), "socket")
		if c.readBy != 0 {
			_ = c.file.SetReadDeadline(time.Unix(0, c.readBy))
		}
	}
	return c.file, watching, nil
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	if c.token != 0 { // the system forgets it with the last copy of the descriptor; until then its events have no token
		theWatcher().remove(c)
		c.token = 0
	}
	fd := int(c.fd)
	c.fd = -1
	if c.file != nil {
		return c.file.Close()
	}
	return closeFD(fd)
}

// CloseWrite closes the sending side. It ends Watch: the peer's answer to it is no news.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	c.unwatch()
	c.mu.Unlock()
	return c.shutdown(unix.SHUT_WR)
}

// Shutdown ends the connection in both directions, and keeps its descriptor. Reads and writes that wait return.
func (c *Conn) Shutdown() error { return c.shutdown(unix.SHUT_RDWR) }

func (c *Conn) shutdown(how int) (err error) {
	closed := c.Control(func(fd uintptr) { err = shutdown(int(fd), how) })
	return cmp.Or(closed, err)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		return c.file.SetReadDeadline(t)
	}
	if c.readBy = 0; !t.IsZero() {
		c.readBy = t.UnixNano()
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	file, err := c.wait()
	if err != nil {
		return err
	}
	return file.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return cmp.Or(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetKeepAlive turns keep-alive on or off, as that of net.TCPConn does.
func (c *Conn) SetKeepAlive(on bool) (err error) {
	value := 0
	if on {
		value = 1
	}
	closed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, value) })
	return cmp.Or(closed, err)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.addr(unix.Getsockname) }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.addr(unix.Getpeername) }

// addr asks the system, since most connections are never asked.
func (c *Conn) addr(of func(int) (unix.Sockaddr, error)) net.Addr {
	var name unix.Sockaddr
	_ = c.Control(func(fd uintptr) { name, _ = of(int(fd)) })
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: name.Addr[:], Port: name.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: name.Addr[:], Port: name.Port, Zone: zone(name.ZoneId)}
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Net: "unix", Name: name.Name}
	}
	return &net.TCPAddr{} // the connection has ended
}

func zone(id uint32) string {
	if id == 0 {
		return ""
	}
	if link, err := net.InterfaceByIndex(int(id)); err == nil {
		return link.Name
	}
	return ""
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

// Control calls f with the descriptor. f must not wait.
func (c *Conn) Control(f func(fd uintptr)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(c.fd))
	return nil
}

// rawConn is a connection as a syscall.RawConn.
type rawConn struct{ *Conn }

func (r rawConn) Read(f func(fd uintptr) (done bool)) error {
	return r.through(func(raw syscall.RawConn) error { return raw.Read(f) })
}

func (r rawConn) Write(f func(fd uintptr) (done bool)) error {
	return r.through(func(raw syscall.RawConn) error { return raw.Write(f) })
}

func (r rawConn) through(call func(syscall.RawConn) error) error {
	file, err := r.wait()
	if err != nil {
		return err
	}
	raw, err := file.SyscallConn()
	if err == nil {
		err = call(raw)
	}
	if err != nil && r.Control(func(uintptr) {}) != nil {
		return net.ErrClosed // what the file says is another error, and no exported one
	}
	return err
}

var (
	_ net.Conn     = (*Conn)(nil)
	_ syscall.Conn = (*Conn)(nil)
)
