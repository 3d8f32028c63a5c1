package hooks_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// awaitEnd is a layer4 handler, test_await_end. It passes a client on when the client has
// closed its side. So the lock gets a client that has certainly gone.
type awaitEnd struct{}

var passedOn atomic.Int64 // clients that have come through

func init() { caddy.RegisterModule(awaitEnd{}) }

func (awaitEnd) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_await_end", New: func() caddy.Module { return new(awaitEnd) }}
}

func (awaitEnd) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (awaitEnd) Handle(cx *layer4.Connection, next layer4.Handler) error {
	defer passedOn.Add(1)
	_, _ = cx.Read(make([]byte, 1))
	return next.Handle(cx)
}

// Forty clients connect and close at once, as a monitoring system does: no hook runs for
// them. Forty more come between clients that are served. The hook runs before the 1st, the
// 21st and the 41st client that the service sees, as if the others had never been.
func TestGoneClientsDoNotCount(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	var seen []int // how many the service had seen when the hook ran
	call := func(hook.Moment) error {
		_, _, total := svc.Counts()
		seen = append(seen, total)
		return nil
	}
	caddytest.OnCall(call)
	addr, probed := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.Global(fmt.Sprintf(`layer4 {
		%[1]s {
			route {
				tcplock {
					name probed
					linger 0
					on activate {
						every 20
						test_call
					}
				}
				proxy %[3]s
			}
		}
		%[2]s {
			route {
				test_await_end
				tcplock {
					name probed
				}
				proxy %[3]s
			}
		}
	}`, addr, probed, svc.Addr)))
	caddytest.LeakCheck(t)
	probe := func() {
		t.Helper()
		before := passedOn.Load()
		caddytest.Dial(t, probed).Close()
		caddytest.Eventually(t, "the lock is done with the client", func() bool { return passedOn.Load() > before })
		caddytest.InLine(t, "probed", 0, 0)
	}
	for range 40 {
		probe()
	}
	if _, _, total := svc.Counts(); total != 0 || len(seen) != 0 {
		t.Fatalf("found %d runs of the hook and %d connections at the service, expected none", len(seen), total)
	}
	for i := range 41 {
		if i < 20 {
			probe()
			probe()
		}
		caddytest.ExpectServed(t, addr)
		caddytest.InLine(t, "probed", 0, 0)
	}
	if want := []int{0, 20, 40}; !slices.Equal(seen, want) {
		t.Errorf("found the hook run when the service had seen %d connections, expected %d", seen, want)
	}
}

// A client goes while another hook runs for it. It was counted before, and now does not count
// any more: the hook that is due for every second client runs for the third of the clients that
// stay.
func TestClientThatGoesDuringHookDoesNotCount(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := hookServer(t, 1, "on activate {\nevery 2\nemit restart\n}\non activate emit start", svc.Addr)
	caddytest.LeakCheck(t)
	serve := func(id int, restart bool) {
		t.Helper()
		conn := caddytest.Dial(t, addr)
		if restart {
			caughtHook(t, fmt.Sprint("restart ", id), "connection").Done()
		}
		caughtHook(t, fmt.Sprint("start ", id), "connection").Done()
		caddytest.Send(t, conn, "hello")
		caddytest.Expect(t, conn, "hello")
		_ = conn.CloseWrite()
		caddytest.ExpectEOF(t, conn)
		caddytest.InLine(t, "default", 0, 0)
	}
	serve(1, true)
	leaver := caddytest.Dial(t, addr)
	start := caughtHook(t, "start 2", "connection")
	_ = leaver.SetLinger(0) // a reset cannot be taken for the end of a request
	leaver.Close()
	next := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 1)
	next.Close()
	caddytest.InLine(t, "default", 1, 0)
	start.Done()
	caddytest.InLine(t, "default", 0, 0)
	serve(4, false)
	serve(5, true)
}

// A client that connects and closes may go so late that the proxy has already connected to the
// service. It does not count either, since neither side has sent a byte. If a service stays
// silent, a client counts if it has sent something, or if hold_timeout has ended it.
func TestMuteClientsDoNotCount(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	var ran atomic.Int64
	call := func(hook.Moment) error {
		ran.Add(1)
		return nil
	}
	caddytest.OnCall(call)
	config := func(more string) string {
		return "tcplock {\nlinger 0\n" + more + "\non activate {\nevery 3\ntest_call\n}\n}"
	}
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.LockConfig(addr, config(""), svc.Addr))
	caddytest.LeakCheck(t)
	ends := func(says string) {
		t.Helper()
		client := caddytest.Dial(t, addr)
		conn := svc.Next(t)
		caddytest.Send(t, client, says)
		caddytest.Expect(t, conn, says)
		client.Close()
		caddytest.ExpectEOF(t, conn)
		svc.Leave(conn)
		caddytest.InLine(t, "default", 0, 0)
	}
	runs := func(want int64) {
		t.Helper()
		if n := ran.Load(); n != want {
			t.Fatalf("found %d runs of the hook, expected %d", n, want)
		}
	}
	ends("hello")
	runs(1)
	for range 9 {
		ends("")
	}
	runs(1)
	ends("hello")
	caddytest.Load(t, caddytest.LockConfig(addr, config("hold_timeout 100ms"), svc.Addr))
	caddytest.Dial(t, addr)
	conn := svc.Next(t)
	caddytest.ExpectEOF(t, conn)
	svc.Leave(conn)
	caddytest.InLine(t, "default", 0, 0)
	runs(1)
	ends("")
	runs(2)
}
