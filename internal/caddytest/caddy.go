// Package caddytest has what the black-box tests of tcplock share: a real Caddy in this process,
// configured by a Caddyfile, real sockets, and a service that counts its connections.
//
// A process can have only one Caddy. So the tests of a package do not run in parallel, except those
// that have a process of their own: see Apart and Caddy.
package caddytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
)

// Root is the root of the repository. The packages of the tests are two folders below it.
const Root = "../.."

// Patience is how long a test waits for something that must happen.
const Patience = 20 * time.Second

// Adapt turns a Caddyfile into Caddy's JSON.
func Adapt(t testing.TB, caddyfile string) []byte {
	t.Helper()
	cfg, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapt: %v\n%s", err, caddyfile)
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Errorf("adapt: %s", w)
		}
	}
	return cfg
}

// Global returns a Caddyfile whose global options isolate the test, with more options, mostly layer4
// servers.
func Global(options string) string {
	return "{\n\tadmin off\n\tpersist_config off\n\tskip_install_trust\n\tauto_https off\n\tgrace_period 1s\n" + options + "\n}\n"
}

// Load starts Caddy with a Caddyfile, or reloads it. Caddy stops when the test ends.
func Load(t testing.TB, caddyfile string) {
	t.Helper()
	if err := TryLoad(t, caddyfile); err != nil {
		t.Fatalf("load: %v\n%s", err, caddyfile)
	}
}

// TryLoad is like Load, but returns the error if Caddy refuses the config.
func TryLoad(t testing.TB, caddyfile string) error {
	t.Helper()
	return TryLoadJSON(t, Adapt(t, caddyfile))
}

// TryLoadJSON is like TryLoad, for a config in JSON.
func TryLoadJSON(t testing.TB, cfg []byte) error {
	t.Helper()
	if loading != t {
		loading = t
		t.Cleanup(func() {
			loading = nil
			_ = caddy.Stop()
			// The next test may have locks of the same names. They must not have
			// connections of this test, and no connection may stay for ever.
			Eventually(t, "no lock is in use any more", func() bool { return len(inside.Process.Locks()) == 0 })
			// No process of this test may still use its directories.
			Eventually(t, "no process is left", func() bool { return inside.Process.Ending() == 0 })
			var budget inside.Budget // all that was added to it must have been taken away
			for end := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
				if budget = inside.Process.Budget(); budget == (inside.Budget{}) || time.Now().After(end) {
					break
				}
			}
			if budget != (inside.Budget{}) {
				t.Errorf("the budget still counts %+v, expected nothing", budget)
			}
		})
	}
	return caddy.Load(cfg, true)
}

// loading is the test for which Caddy runs, nil if it does not run.
var loading testing.TB

// LockServer starts Caddy with one layer4 server in front of the service, and returns the server's
// address. route has the handlers before the way out: see LockConfig.
func LockServer(t testing.TB, route, service string) string {
	t.Helper()
	addr := FreeAddr(t)
	Load(t, LockConfig(addr, route, service))
	return addr
}

// LockConfig is the Caddyfile of LockServer. By the way out under test, proxy connects to the service, or
// tcplock itself does: see BothWays.
func LockConfig(addr, route, service string) string {
	return RouteConfig(addr, WayOut(route, service))
}

// ProxyConfig is like LockConfig, but proxy connects to the service in any case.
func ProxyConfig(addr, route, service string) string {
	return RouteConfig(addr, route+"\nproxy "+service)
}

// RouteConfig is a Caddyfile with one layer4 server and one route.
func RouteConfig(addr, route string) string {
	return Global(fmt.Sprintf("layer4 {\n%s {\nroute {\n%s\n}\n}\n}", OnWay(addr), route))
}

// Service is a TCP service that counts its connections.
type Service struct {
	Addr string

	mu    sync.Mutex
	now   int // open connections
	most  int // the most open connections so far
	total int
	came  chan *net.TCPConn // each connection, for tests that serve by hand
}

// NewService starts a service that calls serve for each connection and then closes it. If serve is
// nil, the test serves by hand: Next returns the connections, and the test must call Leave for each,
// which counts until then.
func NewService(t *testing.T, serve func(*net.TCPConn)) *Service {
	t.Helper()
	return NewServiceAt(t, "127.0.0.1:0", serve)
}

// NewServiceAt is like NewService, at this address.
func NewServiceAt(t *testing.T, addr string, serve func(*net.TCPConn)) *Service {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Addr: ln.Addr().String(), came: make(chan *net.TCPConn, 1000)}
	var served sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		served.Wait()
	})
	served.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.enter()
			tcp := conn.(*net.TCPConn)
			if serve == nil {
				// Cleanup would be too late: the one that stops Caddy may wait for this connection.
				context.AfterFunc(t.Context(), func() { tcp.Close() })
				s.came <- tcp
				continue
			}
			served.Go(func() {
				serve(tcp)
				s.Leave(tcp)
			})
		}
	})
	return s
}

func (s *Service) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	s.total++
	s.most = max(s.most, s.now)
}

// Leave ends a connection. It lowers the count before it closes, because after that the lock may
// send the next connection.
func (s *Service) Leave(conn *net.TCPConn) {
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	conn.Close()
}

// Next returns the next connection to a service that is served by hand.
func (s *Service) Next(t *testing.T) *net.TCPConn {
	t.Helper()
	select {
	case conn := <-s.came:
		return conn
	case <-time.After(Patience):
		t.Fatal("no connection has come to the service")
		return nil
	}
}

// NoneComes checks that no connection comes to the service for 100 milliseconds.
func (s *Service) NoneComes(t *testing.T, why string) {
	t.Helper()
	select {
	case <-s.came:
		t.Fatalf("a connection has come to the service: %s", why)
	case <-time.After(100 * time.Millisecond):
	}
}

// Counts returns how many connections there are now, the most there were at once, and their total.
func (s *Service) Counts() (now, most, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.most, s.total
}

// Echo sends back all it gets, until the client has closed its side.
func Echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

// Dial connects to an address. The connection is closed when the test ends.
func Dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(Patience))
	return conn.(*net.TCPConn)
}

// Send writes data.
func Send(t *testing.T, conn net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatalf("send %q: %v", data, err)
	}
}

// Expect reads as many bytes as want has, and checks that they are want.
func Expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if n, err := io.ReadFull(conn, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, error %v, expected %q", buf[:n], err, want)
	}
}

// ExpectEOF checks that nothing more comes, and that the connection ends without a reset.
func ExpectEOF(t *testing.T, conn net.Conn) {
	t.Helper()
	var rest bytes.Buffer
	if _, err := io.Copy(&rest, conn); err != nil || rest.Len() > 0 {
		t.Fatalf("read %q, error %v, expected the end of the connection", rest.String(), err)
	}
}

// ExpectClosed checks that nothing more comes, and that the connection ends, with or without a
// reset.
func ExpectClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	if ne, timeout := err.(net.Error); n > 0 || err == nil || timeout && ne.Timeout() {
		t.Fatalf("read %d bytes, error %v, expected the end of the connection", n, err)
	}
}

// Eventually waits until ok returns true, for Patience at most.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Within(t, Patience, what, ok)
}

// Within waits until ok returns true, for most at most.
func Within(t testing.TB, most time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(most); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not come true: %s", what)
		}
	}
}

// InLine waits until the lock has so many holders and waiters.
func InLine(t testing.TB, lock string, held, waiting int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("lock %s has %d holders and %d waiters", lock, held, waiting), func() bool {
		_, h, w, _ := LockStats(lock)
		return h == held && w == waiting
	})
}

// LeakCheck checks at the end of the test that the process has no more goroutines and descriptors
// than now. Call it after Caddy has started and before the first client comes, so that the clients
// are closed before the check.
func LeakCheck(t testing.TB) {
	t.Helper()
	descriptors := func() int {
		entries, _ := os.ReadDir("/proc/self/fd") // only Linux has it
		return len(entries)
	}
	goroutinesBefore, descriptorsBefore := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() {
		for end := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
			runtime.GC() // frees the pipes that splice keeps in a pool
			g, d := runtime.NumGoroutine(), descriptors()
			if g <= goroutinesBefore && d <= descriptorsBefore {
				return
			}
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("found %d goroutines and %d descriptors, expected at most %d and %d as before:\n%s",
					g, d, goroutinesBefore, descriptorsBefore, stacks)
				return
			}
		}
	})
}
