package ending_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// lingers are the settings in which the end of a connection differs.
var lingers = []struct{ name, option string }{
	{"default linger", ""},
	{"linger 0", "linger 0"},
}

// A service that takes no more connections than the lock has slots refuses none, in 500 short
// connections from 16 clients, whichever side ends them and however. So the next connection
// comes only when the last one is closed on both sides.
func TestServiceAtItsLimitRefusesNone(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const clients, connections = 16, 500
	for _, linger := range lingers {
		for _, slots := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d slots", linger.name, slots), func(t *testing.T) {
				svc := caddytest.NewService(t, shortConversation)
				addr := caddytest.LockServer(t, fmt.Sprintf("tcplock %d {\n%s\n}", slots, linger.option), svc.Addr)
				caddytest.LeakCheck(t)
				work := make(chan int)
				var all sync.WaitGroup
				for range clients {
					all.Go(func() {
						for i := range work {
							converse(t, addr, i)
						}
					})
				}
				for i := range connections {
					work <- i
				}
				close(work)
				all.Wait()
				caddytest.InLine(t, "default", 0, 0)
				if _, most, total := svc.Counts(); most > slots || total != connections {
					t.Errorf("the service had %d connections at most and %d in all, expected at most %d and %d", most, total, slots, connections)
				}
			})
		}
	}
}

// shortConversation answers a line. It closes at once if the line starts with "quit", and
// otherwise when the client has closed its side.
func shortConversation(conn *net.TCPConn) {
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	fmt.Fprintf(conn, "%d bytes\n", len(line))
	if !strings.HasPrefix(line, "quit") {
		_, _ = io.Copy(io.Discard, r)
	}
}

// converse is the client's side of a connection. It ends in one of four ways.
func converse(t *testing.T, addr string, i int) {
	conn := caddytest.Dial(t, addr)
	line := fmt.Sprintf("number %d\n", i)
	if i%4 == 0 {
		line = "quit\n"
	}
	caddytest.Send(t, conn, line)
	caddytest.Expect(t, conn, fmt.Sprintf("%d bytes\n", len(line)))
	switch i % 4 {
	case 0: // the service closes
		caddytest.ExpectEOF(t, conn)
	case 1: // the client closes its side
		_ = conn.CloseWrite()
		caddytest.ExpectEOF(t, conn)
	case 2: // the client resets the connection
		_ = conn.SetLinger(0)
	}
	conn.Close() // case 3 is only this
}

// The service replies, closes its side and reads on. The end reaches the client, whatever
// stands before tcplock, and what the client sends after that reaches the service. (Some
// clients close only after that end.)
func TestEndReachesClient(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, w := range caddytest.Ways {
		t.Run(w.Name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := w.Serve(t, "tcplock {\nlinger 1m\n}", svc.Addr)
			caddytest.LeakCheck(t)
			c := w.Come(t, addr, "request")
			conn := svc.Next(t)
			caddytest.Expect(t, conn, w.Passed()+"request")
			closesFirst(t, c, conn)
		})
	}
}

// closesFirst has the service send a reply and close its side, and then the client do the same.
func closesFirst(t *testing.T, client *caddytest.Client, service *net.TCPConn) {
	t.Helper()
	caddytest.Send(t, service, "reply")
	_ = service.CloseWrite()
	caddytest.Expect(t, client, "reply")
	caddytest.ExpectEOF(t, client)
	caddytest.Send(t, client, "thanks")
	client.CloseWrite()
	caddytest.Expect(t, service, "thanks")
	caddytest.ExpectEOF(t, service)
}

// A service replies and closes its side. The first client stays connected and silent, and reads
// slowly. The second is served after linger, and not before. The proxy has closed its
// connection to the service by then. The first client still reads its whole reply, and its end.
func TestSilentClientLosesSlotAfterLinger(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const linger = time.Second
	for _, w := range caddytest.Ways {
		t.Run(w.Name, func(t *testing.T) {
			reply := bytes.Repeat([]byte("reply "), 10_000)
			svc := caddytest.NewService(t, nil)
			addr := w.Serve(t, fmt.Sprintf("tcplock {\nlinger %s\n}", linger), svc.Addr)
			caddytest.LeakCheck(t)
			first := w.Come(t, addr, "first")
			conn := svc.Next(t)
			caddytest.Expect(t, conn, w.Passed()+"first")
			second := w.Come(t, addr, "second")
			caddytest.InLine(t, "default", 1, 1)

			start := time.Now()
			if _, err := conn.Write(reply); err != nil {
				t.Fatal(err)
			}
			_ = conn.CloseWrite()
			next := svc.Next(t)
			if took := time.Since(start); took < linger {
				t.Errorf("the second was served after %v, expected not before linger (%v) is over", took, linger)
			}
			_ = conn.SetReadDeadline(time.Now().Add(linger / 2))
			caddytest.ExpectEOF(t, conn)
			svc.Leave(conn)
			caddytest.Expect(t, next, w.Passed()+"second")
			caddytest.Expect(t, first, string(reply))
			caddytest.ExpectEOF(t, first)
			caddytest.Send(t, next, "reply")
			svc.Leave(next)
			caddytest.Expect(t, second, "reply")
			caddytest.ExpectEOF(t, second)
		})
	}
}

// With linger 0 the slot is handed on as soon as the service closes. Ten clients that stay
// connected and silent delay no other client.
func TestLingerZeroWaitsForNoClient(t *testing.T) {
	svc := caddytest.NewService(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "reply") })
	addr := caddytest.LockServer(t, "tcplock {\nlinger 0\n}", svc.Addr)
	caddytest.LeakCheck(t)
	start := time.Now()
	for range 10 {
		conn := caddytest.Dial(t, addr)
		caddytest.Expect(t, conn, "reply")
		caddytest.ExpectEOF(t, conn)
	}
	caddytest.InLine(t, "default", 0, 0)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("ten clients took %v, expected far less than the 10s that lingering would take", took)
	}
}

// A sink half-closes at once and reads on. A client that sends a little at a time, for much
// longer than linger, is not cut.
func TestTricklingClientIsNotCut(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	serve, got := halfClosingSink(0)
	addr := caddytest.LockServer(t, "tcplock {\nlinger 2s\n}", caddytest.NewService(t, serve).Addr)
	caddytest.LeakCheck(t)
	conn := caddytest.Dial(t, addr)
	caddytest.ExpectEOF(t, conn)
	sent := 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); <-tick.C {
		caddytest.Send(t, conn, "drop")
		sent += 4
	}
	conn.Close()
	if n := <-got; n != sent {
		t.Errorf("the sink got %d bytes, expected %d", n, sent)
	}
}

// The sink is slow: it half-closes, and then reads nothing for much longer than linger. A
// client that has more to send than the sockets hold is blocked, not silent. It is not cut
// either.
func TestClientHeldUpBySinkIsNotCut(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const size = 24 << 20
	for _, w := range caddytest.Ways {
		t.Run(w.Name, func(t *testing.T) {
			serve, got := halfClosingSink(2 * time.Second)
			addr := w.Serve(t, "tcplock {\nlinger 500ms\n}", caddytest.NewService(t, serve).Addr)
			caddytest.LeakCheck(t)
			c := w.Come(t, addr, strings.Repeat("x", size))
			c.CloseWrite()
			caddytest.ExpectEOF(t, c)
			if n := <-got; n != len(w.Passed())+size {
				t.Errorf("the sink got %d bytes, expected %d", n, len(w.Passed())+size)
			}
		})
	}
}

// A TLS record is 16 KB. A client that takes much longer than linger to send one is not silent,
// although the layer above the socket gets no byte until the record is complete.
func TestSlowTLSRecordIsNotCut(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	serve, got := halfClosingSink(0)
	addr := caddytest.Way{Tls: true, Handlers: "tls"}.Serve(t, "tcplock {\nlinger 2s\n}", caddytest.NewService(t, serve).Addr)
	caddytest.LeakCheck(t)
	tcp := caddytest.Dial(t, addr)
	slow := &slowWriter{Conn: tcp}
	conn := tls.Client(slow, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	caddytest.ExpectEOF(t, conn)
	slow.pause = 40 * time.Millisecond
	caddytest.Send(t, conn, strings.Repeat("x", 16<<10))
	conn.Close()
	if n := <-got; n != 16<<10 {
		t.Errorf("the sink got %d bytes, expected %d", n, 16<<10)
	}
}

// slowWriter sends a hundred bytes at a time with a pause after each.
type slowWriter struct {
	net.Conn
	pause time.Duration
}

func (w *slowWriter) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var wrote int
		wrote, err = w.Conn.Write(b[n:min(n+100, len(b))])
		n += wrote
		time.Sleep(w.pause)
	}
	return n, err
}

// halfClosingSink is a service that closes its side at once, reads to the end after a while,
// and returns how many bytes that were.
func halfClosingSink(after time.Duration) (serve func(*net.TCPConn), got chan int) {
	got = make(chan int, 1)
	return func(conn *net.TCPConn) {
		_ = conn.CloseWrite()
		time.Sleep(after)
		n, _ := io.Copy(io.Discard, conn)
		got <- int(n)
	}, got
}

// The service is down. Twenty clients in line are closed one after the other, and none of them
// keeps the slot. When the service is up, the next client is served.
func TestServiceDown(t *testing.T) {
	service, addr := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.ProxyConfig(addr, "tcplock", service))
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	for range 20 {
		conn := caddytest.Dial(t, addr)
		clients.Go(func() {
			_, _ = io.WriteString(conn, "anybody there?")
			caddytest.ExpectClosed(t, conn)
		})
	}
	clients.Wait()
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NewServiceAt(t, service, caddytest.Echo)
	caddytest.ExpectServed(t, addr)
}

// The service resets each of twenty connections. Each client is closed, and the slot goes to
// the next.
func TestServiceResets(t *testing.T) {
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 5))
		_ = conn.SetLinger(0)
	})
	addr := caddytest.LockServer(t, "tcplock", svc.Addr)
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			conn := caddytest.Dial(t, addr)
			caddytest.Send(t, conn, "hello")
			caddytest.ExpectClosed(t, conn)
			conn.Close()
		})
	}
	clients.Wait()
	caddytest.InLine(t, "default", 0, 0)
	if _, most, total := svc.Counts(); most > 1 || total != 20 {
		t.Errorf("the service had %d connections at most and %d in all, expected 1 and 20", most, total)
	}
}

// Twenty clients reset their connection while they are served. The service learns of it, and
// the slot goes to the next.
func TestClientResetsWhileServed(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.LockServer(t, "tcplock", svc.Addr)
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	for range 20 {
		conn := caddytest.Dial(t, addr)
		clients.Go(func() {
			caddytest.Send(t, conn, "hello")
			caddytest.Expect(t, conn, "hello")
			_ = conn.SetLinger(0)
			conn.Close()
		})
	}
	clients.Wait()
	caddytest.ExpectServed(t, addr)
	caddytest.InLine(t, "default", 0, 0)
	if _, most, total := svc.Counts(); most > 1 || total != 21 {
		t.Errorf("the service had %d connections at most and %d in all, expected 1 and 21", most, total)
	}
}

// The handler after tcplock panics. Caddy goes on, these clients are closed, and each releases
// its slot: the next waiter is served.
func TestPanicGivesSlotBack(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.LockServer(t, "tcplock 2\ntest_panic", svc.Addr)
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	for range caddytest.Panics {
		conn := caddytest.Dial(t, addr)
		clients.Go(func() { caddytest.ExpectClosed(t, conn) })
	}
	clients.Wait()
	caddytest.InLine(t, "default", 0, 0)
	caddytest.ExpectServed(t, addr)
}
