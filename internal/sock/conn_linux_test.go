package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// pair returns a connection, and its peer.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	c, peer := pairOn(t, "tcp", "127.0.0.1:0")
	return c, peer.(*net.TCPConn)
}

func pairOn(t *testing.T, network, address string) (*Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = peer.SetDeadline(time.Now().Add(patience))
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dup(accepted.(syscall.Conn))
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close() // which must not end c
	t.Cleanup(func() {
		peer.Close()
		c.Close()
	})
	return c, peer
}

// bothStates runs a test with a connection that has not had to wait so far, and with one that has.
func bothStates(t *testing.T, test func(t *testing.T, c *Conn, peer *net.TCPConn)) {
	t.Run("apart", func(t *testing.T) {
		c, peer := pair(t)
		test(t, c, peer)
	})
	t.Run("in the poller", func(t *testing.T) {
		c, peer := pair(t)
		_, _ = peer.Write([]byte("x"))
		if n, err := c.Read(make([]byte, 10)); n != 1 || err != nil {
			t.Fatalf("found %d, %v, expected one byte", n, err)
		}
		test(t, c, peer)
	})
}

func want(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: found %v, expected %v", what, err, want)
	}
}

// readable waits until there is something to read.
func readable(t *testing.T, c *Conn) {
	t.Helper()
	_ = c.Control(func(fd uintptr) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}, int(patience.Milliseconds()))
	})
}

// TryRead does not wait, and tells nothing yet, data, the end, and a reset apart.
func TestTryRead(t *testing.T) {
	bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		buf := make([]byte, 10)
		n, err := c.TryRead(buf)
		if err != ErrNotNow || n != 0 {
			t.Errorf("found %d, %v, expected ErrNotNow", n, err)
		}
		_, _ = peer.Write([]byte("hello"))
		readable(t, c)
		if n, err = c.TryRead(buf[:2]); n != 2 || err != nil {
			t.Errorf("found %d, %v, expected 2 bytes", n, err)
		}
		_ = peer.CloseWrite()
		if n, err = c.TryRead(buf); string(buf[:n]) != "llo" || err != nil {
			t.Errorf("found %q, %v, expected the rest", buf[:n], err)
		}
		readable(t, c)
		if n, err = c.TryRead(buf); n != 0 || err != io.EOF {
			t.Errorf("found %d, %v, expected EOF", n, err)
		}
	})
	bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		_ = peer.SetLinger(0)
		peer.Close()
		readable(t, c)
		_, err := c.TryRead(make([]byte, 1))
		want(t, "TryRead", err, unix.ECONNRESET)
	})
}

// What is written arrives, also if it is more than the system takes at once, and the end after it.
func TestWrites(t *testing.T) {
	for name, write := range map[string]func(*Conn, []byte) (int, error){"Write": (*Conn).Write, "WriteLast": (*Conn).WriteLast} {
		for _, size := range []int{0, 1, 20 << 20} {
			t.Run(name, func(t *testing.T) {
				bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
					data := bytes.Repeat([]byte("0123456789abcde"), 1+size/15)[:size]
					go func() {
						if n, err := write(c, data); n != size || err != nil {
							t.Errorf("found %d, %v, expected %d", n, err, size)
						}
						_ = c.CloseWrite()
					}()
					if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, data) {
						t.Errorf("found %d bytes, %v, expected the %d that were sent", len(got), err, size)
					}
					_, _ = peer.Write([]byte("still open"))
					if n, err := c.Read(make([]byte, 100)); n != 10 || err != nil {
						t.Errorf("found %d, %v, expected the other direction open", n, err)
					}
				})
			})
		}
	}
	bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		_ = peer.SetLinger(0)
		peer.Close()
		readable(t, c)
		_, _ = c.Write([]byte("x")) // takes the reset
		_, err := c.Write([]byte("x"))
		want(t, "Write", err, unix.EPIPE)
	})
}

// The deadlines hold, whether they are set before the connection is in the poller or while a call waits.
func TestDeadlines(t *testing.T) {
	bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		buf := make([]byte, 10)
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		_ = c.SetReadDeadline(time.Unix(1, 0))
		_, err := c.Read(buf)
		want(t, "Read", err, os.ErrDeadlineExceeded)
		_ = c.SetReadDeadline(time.Time{})
		_, _ = peer.Write([]byte("hello"))
		if n, err := c.Read(buf); n != 5 || err != nil {
			t.Errorf("found %d, %v, expected 5 bytes", n, err)
		}
		waits := make(chan error)
		go func() {
			_, err := c.Read(buf)
			waits <- err
		}()
		time.Sleep(time.Millisecond) // mostly it waits by now; it must end in any case
		_ = c.SetReadDeadline(time.Unix(1, 0))
		want(t, "Read", <-waits, os.ErrDeadlineExceeded)
	})
	bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
		_ = c.SetReadDeadline(time.Time{})
		_ = c.SetDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		want(t, "Read", err, os.ErrDeadlineExceeded)
		_, err = c.Write(make([]byte, 20<<20))
		want(t, "Write", err, os.ErrDeadlineExceeded)
	})
}

// The deadline that is set before the first wait is the latest: no deadline if it was taken back.
func TestDeadlineTakenBack(t *testing.T) {
	c, peer := pair(t)
	_ = c.SetReadDeadline(time.Unix(1, 0))
	_ = c.SetReadDeadline(time.Time{})
	_, _ = peer.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("found %d, %v, expected one byte", n, err)
	}
}

// Close and Shutdown end the calls that wait.
func TestCloseWakes(t *testing.T) {
	calls := map[string]func(c *Conn) error{
		"Read":  func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"Write": func(c *Conn) error { _, err := c.Write(make([]byte, 20<<20)); return err },
	}
	for name, call := range calls {
		for _, pause := range []time.Duration{0, 20 * time.Millisecond} { // before and while it waits
			bothStates(t, func(t *testing.T, c *Conn, _ *net.TCPConn) {
				ended := make(chan error)
				go func() { ended <- call(c) }()
				time.Sleep(pause)
				_ = c.Close()
				if err := <-ended; !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
					t.Errorf("%s: found %v, expected it closed", name, err)
				}
			})
			bothStates(t, func(t *testing.T, c *Conn, peer *net.TCPConn) {
				ended := make(chan error)
				go func() { ended <- call(c) }()
				time.Sleep(pause)
				if err := c.Shutdown(); err != nil {
					t.Error(err)
				}
				if err := <-ended; err != io.EOF && !errors.Is(err, unix.EPIPE) {
					t.Errorf("%s: found %v, expected the end", name, err)
				}
				if err := c.Control(func(uintptr) {}); err != nil {
					t.Errorf("found %v, expected the descriptor to be there still", err)
				}
				if _, err := io.Copy(io.Discard, peer); err != nil {
					t.Errorf("the peer: found %v, expected the end", err)
				}
			})
		}
	}
}

// After Close all calls fail, and none touches a descriptor that may be another file's by now.
func TestAfterClose(t *testing.T) {
	bothStates(t, func(t *testing.T, c *Conn, _ *net.TCPConn) {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		b := []byte("x")
		for name, call := range map[string]func() error{
			"Close":            c.Close,
			"CloseWrite":       c.CloseWrite,
			"Shutdown":         c.Shutdown,
			"Connected":        c.Connected,
			"Await":            func() error { return c.Await(time.Time{}) },
			"Read":             func() error { _, err := c.Read(b); return err },
			"TryRead":          func() error { _, err := c.TryRead(b); return err },
			"Write":            func() error { _, err := c.Write(b); return err },
			"WriteLast":        func() error { _, err := c.WriteLast(b); return err },
			"SetWriteDeadline": func() error { return c.SetWriteDeadline(time.Now()) },
			"SetKeepAlive":     func() error { return c.SetKeepAlive(true) },
			"Control":          func() error { return c.Control(func(uintptr) { t.Error("Control has called") }) },
			"Watch":            func() error { return c.Watch(newWatched(), Input) },
		} {
			want(t, name, call(), net.ErrClosed)
		}
		if c.LocalAddr().String() != ":0" || c.RemoteAddr().String() != ":0" {
			t.Errorf("found %v and %v, expected no addresses", c.LocalAddr(), c.RemoteAddr())
		}
	})
}

// The addresses are those that package net finds.
func TestAddresses(t *testing.T) {
	for network, address := range map[string]string{
		"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "tcp": "[::]:0", "unix": filepath.Join(t.TempDir(), "socket"),
	} {
		c, peer := pairOn(t, network, address)
		if network == "unix" {
			if c.LocalAddr().String() != address || c.RemoteAddr().Network() != "unix" {
				t.Errorf("found %v and %v, expected %s and a unix address", c.LocalAddr(), c.RemoteAddr(), address)
			}
		} else if c.LocalAddr().String() != peer.RemoteAddr().String() || c.RemoteAddr().String() != peer.LocalAddr().String() {
			t.Errorf("found %v and %v, expected %v and %v", c.LocalAddr(), c.RemoteAddr(), peer.RemoteAddr(), peer.LocalAddr())
		}
	}
}

// When the descriptors have run out, Dup fails and nothing has changed. Its descriptor is closed on exec.
func TestDup(t *testing.T) {
	c, peer := pair(t)
	flags := 0
	_ = c.Control(func(fd uintptr) { flags, _ = unix.FcntlInt(fd, unix.F_GETFD, 0) })
	if flags&unix.FD_CLOEXEC == 0 {
		t.Error("found the descriptor open for the programs that are started, expected it closed on exec")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := Dup(peer)
	_, dialErr := Dial(peer.RemoteAddr().(*net.TCPAddr).AddrPort())
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	want(t, "Dup", err, unix.EMFILE)
	want(t, "Dial", dialErr, unix.EMFILE)
	_, _ = peer.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("found %d, %v, expected the connection as it was", n, err)
	}
}

// Close comes while other calls are under way. None of them touches a descriptor that is another file's by then:
// a second connection, which takes the same number, gets nothing that it was not sent.
func TestCloseAmongCalls(t *testing.T) {
	for round := range 300 {
		c, peer := pair(t)
		var calls sync.WaitGroup
		start := make(chan struct{})
		for _, call := range []func(){
			func() { _, _ = c.Write([]byte("for the first")) },
			func() { _, _ = c.WriteLast([]byte("for the first")) },
			func() { _, _ = c.TryRead(make([]byte, 1)) },
			func() { _ = c.Watch(newWatched(), Input) },
			func() { _ = c.Watch(newWatched(), EndOf) },
			func() { _ = c.CloseWrite() },
			func() {
				if round%2 == 0 {
					_, _ = c.Read(make([]byte, 1))
				}
			},
			func() { _ = c.SetReadDeadline(time.Unix(1, 0)) },
			func() { _ = c.RemoteAddr() },
		} {
			calls.Go(func() {
				<-start
				call()
			})
		}
		close(start)
		c.Close()
		second, at := pair(t)
		calls.Wait()
		_, _ = second.Write([]byte("second"))
		second.Close()
		if got, err := io.ReadAll(at); string(got) != "second" || err != nil {
			t.Fatalf("found %q, %v, expected what the second connection was sent", got, err)
		}
		peer.Close()
	}
}
