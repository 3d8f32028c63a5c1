package tcplock_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// The tests here see the lock from outside: a real Caddy in this process, configured
// by a Caddyfile, real sockets, a service that counts who is connected to it.

// patience bounds every wait for something that will happen unless there is a bug.
const patience = 20 * time.Second

// adapt turns a Caddyfile into Caddy's JSON.
func adapt(t *testing.T, caddyfile string) []byte {
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

// global is a Caddyfile whose global options keep the test to itself, with more of them
// added: layer4 servers, mostly.
func global(options string) string {
	return "{\n\tadmin off\n\tpersist_config off\n\tskip_install_trust\n\tauto_https off\n\tgrace_period 1s\n" + options + "\n}\n"
}

// load starts Caddy with a Caddyfile, or reloads it; it stops when the test ends.
func load(t *testing.T, caddyfile string) {
	t.Helper()
	if err := tryLoad(t, caddyfile); err != nil {
		t.Fatalf("load: %v\n%s", err, caddyfile)
	}
}

func tryLoad(t *testing.T, caddyfile string) error {
	t.Helper()
	return tryLoadJSON(t, adapt(t, caddyfile))
}

func tryLoadJSON(t *testing.T, cfg []byte) error {
	t.Helper()
	if loading != t {
		loading = t
		t.Cleanup(func() {
			loading = nil
			_ = caddy.Stop()
			// The next test has locks of the same names. It must not meet this
			// one's connections, and none may be left over for good.
			eventually(t, "no lock is in use any more", func() bool { return tcplock.Locks() == 0 })
			// Nor may a process of this one still use its directories.
			eventually(t, "no process is left", func() bool { return tcplock.Ending() == 0 })
			budget := "" // what was added to it must be given back, each once
			for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
				if budget = tcplock.Budget(); budget == "" || time.Now().After(end) {
					break
				}
			}
			if budget != "" {
				t.Errorf("the budget still counts %s, expected nothing", budget)
			}
		})
	}
	return caddy.Load(cfg, true)
}

// loading is the test that Caddy runs for. There is one Caddy in a process, so these
// tests do not run in parallel.
var loading *testing.T

// lockServer starts Caddy with one layer4 server in front of the service and returns
// its address. route is the route's handlers before proxy.
func lockServer(t *testing.T, route, service string) string {
	t.Helper()
	addr := freeAddr(t)
	load(t, lockConfig(addr, route, service))
	return addr
}

// lockConfig is the Caddyfile of lockServer.
func lockConfig(addr, route, service string) string {
	return global(fmt.Sprintf("layer4 {\n%s {\nroute {\n%s\nproxy %s\n}\n}\n}", addr, route, service))
}

// The ports that freeAddr goes through, from somewhere among them. They are below those that
// systems give to outgoing connections: one of these would be taken by a client before the
// server gets to listen.
const (
	firstPort = 10_000
	manyPorts = 22_000
)

var (
	portsStart = rand.Int32N(manyPorts)
	portsSeen  atomic.Int32
)

// freeAddr returns a loopback address that nobody listens on, another each time.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+(portsStart+portsSeen.Add(1))%manyPorts)
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("found no port that is free")
	return ""
}

// service is a TCP service that counts its connections.
type service struct {
	addr string

	mu    sync.Mutex
	now   int // connections at this moment
	most  int // the most there ever were at a moment
	total int
	came  chan *net.TCPConn // each connection, for tests that serve by hand
}

// newService starts a service that answers each connection with serve and closes it.
// With a nil serve, connections are handed out by next and are the test's to serve;
// they count until leave is called for them.
func newService(t *testing.T, serve func(*net.TCPConn)) *service {
	t.Helper()
	return newServiceAt(t, "127.0.0.1:0", serve)
}

func newServiceAt(t *testing.T, addr string, serve func(*net.TCPConn)) *service {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{addr: ln.Addr().String(), came: make(chan *net.TCPConn, 1000)}
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
				// Not by Cleanup: it may come so late that the lock is waited for then.
				context.AfterFunc(t.Context(), func() { tcp.Close() })
				s.came <- tcp
				continue
			}
			served.Go(func() {
				serve(tcp)
				s.leave(tcp)
			})
		}
	})
	return s
}

func (s *service) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	s.total++
	s.most = max(s.most, s.now)
}

// leave ends a connection. It is counted out before it is closed: only then can the
// lock know, and send the next one.
func (s *service) leave(conn *net.TCPConn) {
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	conn.Close()
}

// next returns the next connection to a service that is served by hand.
func (s *service) next(t *testing.T) *net.TCPConn {
	t.Helper()
	select {
	case conn := <-s.came:
		return conn
	case <-time.After(patience):
		t.Fatal("no connection has come to the service")
		return nil
	}
}

// nobody makes sure that no connection comes to the service for a moment.
func (s *service) nobody(t *testing.T, why string) {
	t.Helper()
	select {
	case <-s.came:
		t.Fatalf("a connection has come to the service: %s", why)
	case <-time.After(100 * time.Millisecond):
	}
}

func (s *service) counts() (now, most, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.most, s.total
}

// echo answers what it gets until the client has closed its side.
func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

// dial connects to the lock; the connection is closed when the test ends.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

func send(t *testing.T, conn net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatalf("send %q: %v", data, err)
	}
}

// expect reads exactly want.
func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if n, err := io.ReadFull(conn, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, error %v, expected %q", buf[:n], err, want)
	}
}

// expectEOF makes sure that nothing more comes, and that the end is a clean one.
func expectEOF(t *testing.T, conn net.Conn) {
	t.Helper()
	var rest bytes.Buffer
	if _, err := io.Copy(&rest, conn); err != nil || rest.Len() > 0 {
		t.Fatalf("read %q, error %v, expected the end of the connection", rest.String(), err)
	}
}

// expectClosed makes sure that nothing more comes, and that the connection ends, cleanly
// or by a reset.
func expectClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	if ne, timeout := err.(net.Error); n > 0 || err == nil || timeout && ne.Timeout() {
		t.Fatalf("read %d bytes, error %v, expected the end of the connection", n, err)
	}
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(most); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not come true: %s", what)
		}
	}
}

// inLine waits until the lock has that many holders and waiters.
func inLine(t *testing.T, lock string, held, waiting int) {
	t.Helper()
	eventually(t, fmt.Sprintf("lock %s has %d holders and %d waiters", lock, held, waiting), func() bool {
		_, h, w, _ := tcplock.LockStats(lock)
		return h == held && w == waiting
	})
}

// leakCheck makes sure that the process has no more goroutines and descriptors at the
// end of the test than now. Call it when Caddy runs and before the first client comes:
// what the test closes after that is closed before the count.
func leakCheck(t *testing.T) {
	t.Helper()
	descriptors := func() int {
		entries, _ := os.ReadDir("/proc/self/fd") // only Linux has it
		return len(entries)
	}
	goroutinesBefore, descriptorsBefore := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() {
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			runtime.GC() // splice's pipes stay in a pool until then
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
