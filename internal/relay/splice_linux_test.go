package relay

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds/fdstest"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// plainClient is the client's side of a relay, and counts.
type plainClient struct {
	*net.TCPConn
	socket  syscall.RawConn
	in, out atomic.Int64 // all bytes
	spliced atomic.Int64 // those that went by ReadBy and Wrote
	panics  string       // the call that panics
}

func (c *plainClient) WriteLast(b []byte) (int, error) { return c.Write(b) }
func (c *plainClient) Lingers() bool                   { return true }

func (c *plainClient) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

func (c *plainClient) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

func (c *plainClient) ReadBy(take func() (int, error)) (int, error) {
	n, err := take()
	c.in.Add(int64(n))
	c.spliced.Add(int64(n))
	c.call("ReadBy")
	return n, err
}

func (c *plainClient) Wrote(n int) {
	c.out.Add(int64(n))
	c.spliced.Add(int64(n))
	c.call("Wrote")
}

func (c *plainClient) call(name string) {
	if c.panics == name {
		panic("test: " + name)
	}
}

func (c *plainClient) Plain() Plain            { return c }
func (c *plainClient) Socket() syscall.RawConn { return c.socket }
func (c *plainClient) Discarded(_, _ int)      {}
func (c *plainClient) EndInput()               { _ = c.SetReadDeadline(time.Unix(1, 0)) }

// sides are both ends of both connections of a relay.
type sides struct {
	client                *plainClient
	service               *net.TCPConn
	farClient, farService *net.TCPConn
}

// connected returns the sides of a relay that has not begun.
func connected(t *testing.T) *sides {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pair := func() (far, near *net.TCPConn) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range []net.Conn{conn, accepted} {
			_ = one.SetDeadline(time.Now().Add(10 * time.Second))
			t.Cleanup(func() { one.Close() })
		}
		return conn.(*net.TCPConn), accepted.(*net.TCPConn)
	}
	s := &sides{}
	var client *net.TCPConn
	s.farClient, client = pair()
	s.farService, s.service = pair()
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	s.client = &plainClient{TCPConn: client, socket: raw}
	return s
}

// copies runs Copy, and returns a channel with what it panics with.
func (s *sides) copies() (caught chan any) {
	caught = make(chan any, 1)
	go func() {
		defer func() { caught <- recover() }()
		_ = Copy(s.client, s.service)
	}()
	return caught
}

// talk sends data both ways at once, and checks that it comes.
func (s *sides) talk(t *testing.T, data []byte) {
	t.Helper()
	got := make(chan bool, 2)
	for _, way := range [][2]*net.TCPConn{{s.farClient, s.farService}, {s.farService, s.farClient}} {
		go func() { _, _ = way[0].Write(data) }()
		go func() {
			b := make([]byte, len(data))
			_, err := io.ReadFull(way[1], b)
			got <- err == nil && bytes.Equal(b, data)
		}()
	}
	if first, second := <-got, <-got; !first || !second {
		t.Errorf("found %d bytes in and %d out, not all as they were sent, expected %d each", s.client.in.Load(), s.client.out.Load(), len(data))
	}
}

func (s *sides) end() {
	s.farClient.Close()
	s.farService.Close()
}

var plenty = bytes.Repeat([]byte("some of the bytes, "), 50_000)

// The pipes of a relay are in the budget, until its end.
func TestPipesAreCounted(t *testing.T) {
	var all []*sides
	for range 10 {
		all = append(all, connected(t))
	}
	fdstest.WantCounted(t, func(t *testing.T) {
		s := all[0]
		all = all[1:]
		done := s.copies()
		t.Cleanup(func() {
			s.farClient.CloseWrite()
			s.farService.CloseWrite()
			<-done
		})
		s.talk(t, plenty)
		if n := s.client.spliced.Load(); n < int64(len(plenty)) {
			t.Errorf("found %d bytes spliced of 2 times %d, expected most", n, len(plenty))
		}
	})
}

// noSocket is a socket for which the system does not know splice.
type noSocket struct{ fd uintptr }

func (n noSocket) Control(f func(uintptr)) error    { f(n.fd); return nil }
func (n noSocket) Read(f func(uintptr) bool) error  { f(n.fd); return nil }
func (n noSocket) Write(f func(uintptr) bool) error { f(n.fd); return nil }

// Without a pipe, all goes through the buffer: where the process or the budget has no descriptor left, and where
// the system does not splice. Bytes that are in the pipe by then are not lost.
func TestWithoutPipe(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, s *sides){
		"no descriptor": func(t *testing.T, _ *sides) {
			var before unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
				t.Fatal(err)
			}
		},
		"no budget": func(t *testing.T, _ *sides) {
			before := fds.Process.SetLimit(15)
			t.Cleanup(func() { fds.Process.SetLimit(before) })
		},
		"no splice": func(t *testing.T, s *sides) {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			s.client.socket = noSocket{uintptr(fd)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := connected(t)
			prepare(t, s)
			done := s.copies()
			s.talk(t, plenty)
			s.end()
			if p := <-done; p != nil {
				t.Errorf("found the panic %v", p)
			}
			if n := s.client.spliced.Load(); n != 0 {
				t.Errorf("found %d bytes spliced, expected none", n)
			}
			if in, out := s.client.in.Load(), s.client.out.Load(); in != int64(len(plenty)) || out != in {
				t.Errorf("found %d and %d bytes counted, expected %d each", in, out, len(plenty))
			}
			if use := fds.Process.InUse(); use != (fds.Use{}) {
				t.Errorf("the budget still counts %+v", use)
			}
		})
	}
}

// A panic while a pipe is in use reaches the caller of Copy. By then both pipes are closed.
func TestPanicWithPipe(t *testing.T) {
	for _, call := range []string{"ReadBy", "Wrote"} {
		t.Run(call, func(t *testing.T) {
			s := connected(t)
			s.client.panics = call
			before := descriptors(t)
			done := s.copies()
			for _, far := range []*net.TCPConn{s.farClient, s.farService} {
				go func() { _, _ = far.Write(plenty) }()
				go func() { _, _ = io.Copy(io.Discard, far) }()
			}
			if p := <-done; p == nil || !strings.Contains(fmt.Sprint(p), "test: "+call) {
				t.Errorf("found %v, expected the panic of %s", p, call)
			}
			testkit.Poll(t, "all descriptors of the relay are closed", func() bool { return descriptors(t) <= before-1 }) // that of the service too
			if use := fds.Process.InUse(); use != (fds.Use{}) {
				t.Errorf("the budget still counts %+v", use)
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
