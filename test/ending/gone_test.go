package ending_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A client goes while the service answers it, or is cut. A service that sends the rest and
// closes soon does not see the next client before that. It may accept no more connections than
// the lock has slots.
func TestServiceEndsAfterItsClientHasGone(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const grace = 200 * time.Millisecond // so long tcplock reads what the service still sends
	for _, way := range []struct {
		name, option string
		goes         func(t *testing.T, c *net.TCPConn, addr string)
	}{
		{"reset", "", func(_ *testing.T, c *net.TCPConn, _ string) {
			_ = c.SetLinger(0)
			c.Close()
		}},
		{"close", "", func(_ *testing.T, c *net.TCPConn, _ string) { c.Close() }},
		{"half-close and reset", "", func(_ *testing.T, c *net.TCPConn, _ string) {
			_ = c.CloseWrite()
			_ = c.SetLinger(0)
			c.Close()
		}},
		{"hold_timeout", "hold_timeout 300ms", func(t *testing.T, c *net.TCPConn, _ string) { caddytest.ExpectClosed(t, c) }},
	} {
		t.Run(way.name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, "tcplock {\n"+way.option+"\n}", svc.Addr)
			timely := 0 // rounds in which the service closed in time
			for round := 0; timely < 3; round++ {
				if round == 50 {
					t.Fatalf("the machine is too slow: the service has not once ended within %s", grace)
				}
				c := caddytest.Dial(t, addr)
				caddytest.Send(t, c, "question")
				conn := svc.Next(t)
				caddytest.Expect(t, conn, "question")
				caddytest.Send(t, conn, "answer")
				caddytest.Expect(t, c, "answer")
				caddytest.InLine(t, "default", 1, 0)
				next := caddytest.Dial(t, addr)
				caddytest.Send(t, next, "next")
				caddytest.InLine(t, "default", 1, 1)
				gone := time.Now()
				way.goes(t, c, addr)
				if way.option != "" {
					gone = time.Now() // it was cut just now
				}
				for range 5 {
					_, _ = io.WriteString(conn, "and so on")
					time.Sleep(10 * time.Millisecond)
				}
				_, _, came := svc.Counts()
				svc.Leave(conn)
				if time.Since(gone) < grace {
					timely++
					if want := 2*round + 1; came != want {
						t.Fatalf("round %d: %d had come when the service closed, expected %d", round, came, want)
					}
				}
				conn = svc.Next(t)
				caddytest.Expect(t, conn, "next")
				svc.Leave(conn)
				caddytest.ExpectEOF(t, next)
				next.Close()
				caddytest.InLine(t, "default", 0, 0)
			}
		})
	}
}

// A service that sends for ever to a client that has gone does not keep the slot.
func TestServiceIsNotHeardOutForEver(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock", svc.Addr)
	c := caddytest.Dial(t, addr)
	conn := svc.Next(t)
	next := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 1)
	_ = c.SetLinger(0)
	c.Close()
	talks := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintln(conn, i); err != nil {
				talks <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	svc.Leave(svc.Next(t))
	caddytest.ExpectEOF(t, next)
	select {
	case <-talks:
	case <-time.After(caddytest.Patience):
		t.Error("the service can still talk to a client that has gone")
	}
	svc.Leave(conn)
}
