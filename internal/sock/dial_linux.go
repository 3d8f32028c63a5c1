package sock

import (
	"cmp"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dial begins to connect to a TCP address. It does not wait: see Connected.
func Dial(to netip.AddrPort) (*Conn, error) {
	fd, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c := New(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := connect(fd, to); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		c.Close()
		return nil, os.NewSyscallError("connect", err)
	}
	return c, nil
}

func zoneID(zone string) uint32 {
	if link, err := net.InterfaceByName(zone); zone != "" && err == nil {
		return uint32(link.Index)
	}
	return 0
}

// Connected returns nil if a connection of Dial's is there, ErrNotNow if that has to be awaited, and otherwise why
// it never will be. On one machine the first call already tells.
func (c *Conn) Connected() (err error) {
	closed := c.Control(func(fd uintptr) { err = connected(int(fd)) })
	return cmp.Or(closed, err)
}

// Await is Connected that waits, until the given time.
func (c *Conn) Await(by time.Time) (err error) {
	if err := c.SetWriteDeadline(by); err != nil {
		return err
	}
	failed := rawConn{c}.Write(func(fd uintptr) bool {
		err = connected(int(fd))
		return err != ErrNotNow
	})
	return cmp.Or(failed, err, c.SetWriteDeadline(time.Time{}))
}

func connected(fd int) error {
	events := polled(fd, unix.POLLOUT)
	switch {
	case events == 0:
		return ErrNotNow
	case events&(unix.POLLERR|unix.POLLHUP) == 0:
		return nil
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return os.NewSyscallError("connect", err)
}
