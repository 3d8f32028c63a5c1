package sock

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// dial is Dial and Connected, which may find the same error.
func dial(t *testing.T, to netip.AddrPort) (*Conn, error) {
	t.Helper()
	c, err := Dial(to)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, c.Connected()
}

// On one machine a connection is there at once, with what the service has sent.
func TestDial(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		to := ln.Addr().(*net.TCPAddr).AddrPort()
		c, err := dial(t, to)
		if err != nil {
			t.Fatalf("found %v, expected a connection", err)
		}
		if err := c.Await(time.Now().Add(patience)); err != nil {
			t.Errorf("found %v, expected no wait", err)
		}
		if c.RemoteAddr().String() != to.String() {
			t.Errorf("found %v, expected %v", c.RemoteAddr(), to)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("hello"))
		conn.Close()
		ln.Close()
		if n, err := c.Read(make([]byte, 10)); n != 5 || err != nil {
			t.Errorf("found %d, %v, expected 5 bytes", n, err)
		}
		_, err = dial(t, to)
		want(t, "no service", err, unix.ECONNREFUSED)
	}
}

// A connection that is not there at once can be awaited: until the deadline, until it is closed, or until it is
// there. (Then it can be written to for as long as it takes: the deadline has gone.)
func TestAwait(t *testing.T) {
	to, fd := testkit.FullListener(t)
	t.Run("deadline", func(t *testing.T) {
		c, err := dial(t, to)
		want(t, "Connected", err, ErrNotNow)
		want(t, "Await", c.Await(time.Now().Add(20*time.Millisecond)), os.ErrDeadlineExceeded)
		want(t, "Await", c.Await(time.Unix(1, 0)), os.ErrDeadlineExceeded)
		want(t, "Connected", c.Connected(), ErrNotNow)
	})
	for _, pause := range []time.Duration{0, 20 * time.Millisecond} {
		t.Run("closed", func(t *testing.T) {
			c, _ := dial(t, to)
			ended := make(chan error)
			go func() { ended <- c.Await(time.Now().Add(patience)) }()
			time.Sleep(pause)
			c.Close()
			if err := <-ended; err == nil || os.IsTimeout(err) {
				t.Errorf("found %v, expected it closed", err)
			}
		})
	}
	t.Run("there", func(t *testing.T) {
		c, err := dial(t, to)
		want(t, "Connected", err, ErrNotNow)
		ended := make(chan error)
		go func() { ended <- c.Await(time.Now().Add(patience)) }()
		go func() {
			for { // the system tries again in a second
				conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err != nil {
					return // the test has ended
				}
				defer unix.Close(conn)
			}
		}()
		if err := <-ended; err != nil {
			t.Errorf("found %v, expected a connection", err)
		}
		want(t, "Connected", c.Connected(), nil)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Errorf("found %v, expected no deadline any more", err)
		}
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ends Accept4, which Close would not
	})
}
