package ending_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// expectHook makes sure that this hook runs next, and holds it up.
func expectHook(t *testing.T, hooks <-chan caddytest.Hook, on, reason string, connection uint64) caddytest.Hook {
	t.Helper()
	select {
	case h := <-hooks:
		if h.On != on || h.Reason != reason || h.Connection != connection || h.Slot != 1 {
			t.Errorf("hook %s, reason %s, connection %d, slot %d: expected %s, %s, %d, 1", h.On, h.Reason, h.Connection, h.Slot, on, reason, connection)
		}
		return h
	case <-time.After(caddytest.Patience):
		t.Fatalf("no hook has run, expected %s", on)
		return caddytest.Hook{}
	}
}

func expectLeftOver(t *testing.T, want int) {
	t.Helper()
	caddytest.Eventually(t, fmt.Sprint(want, " connections are left over"), func() bool {
		_, _, _, leftOver := caddytest.LockStats("default")
		return leftOver == want
	})
}

// A service neither answers nor closes. After hold_timeout, and not before, the client is cut,
// also if it has gone long ago. The timeout and release hooks run, one after the other. The
// next client gets to the service when they have ended, although the proxy still waits for the
// service to close the first connection.
func TestHoldTimeoutFreesWedgedService(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const hold = 2 * time.Second
	for _, kind := range []struct {
		name  string
		leave func(c *net.TCPConn)
	}{
		{"client stays", func(*net.TCPConn) {}},
		{"client has closed", func(c *net.TCPConn) { c.Close() }},
		{"client has reset", func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			hooks, letGo := caddytest.HoldHooks()
			defer letGo()
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nhold_timeout %s\non release test_call\non timeout test_call\n}", hold), svc.Addr)
			caddytest.LeakCheck(t)
			start := time.Now()
			first := caddytest.Dial(t, addr)
			caddytest.Send(t, first, "first")
			wedged := svc.Next(t)
			second := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 1)
			kind.leave(first)

			h := expectHook(t, hooks, "timeout", "hold_timeout", 1)
			if took := time.Since(start); took < hold {
				t.Errorf("the slot was taken away after %s, expected not before %s", took, hold)
			}
			if kind.name == "client stays" {
				caddytest.ExpectClosed(t, first)
			}
			svc.NoneComes(t, "the timeout hook still runs")
			if len(hooks) > 0 {
				t.Error("the release hook has not waited for the end of the timeout hook")
			}
			close(h.GoOn)
			h = expectHook(t, hooks, "release", "hold_timeout", 1)
			svc.NoneComes(t, "the release hook still runs")
			caddytest.InLine(t, "default", 1, 1)
			expectLeftOver(t, 0)
			close(h.GoOn)
			next := svc.Next(t)
			expectLeftOver(t, 1)
			caddytest.InLine(t, "default", 1, 0)
			svc.Leave(wedged)
			expectLeftOver(t, 0)

			caddytest.Send(t, next, "reply")
			caddytest.Expect(t, second, "reply")
			second.Close()
			svc.Leave(next)
			close(expectHook(t, hooks, "release", "served", 2).GoOn)
			caddytest.InLine(t, "default", 0, 0)
			if len(hooks) > 0 {
				t.Errorf("one hook too many has run: %v", <-hooks)
			}
		})
	}
}

// Three connections get stuck one after the other. Each is counted until the service closes it,
// in whatever order.
func TestLeftOversAreCounted(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nhold_timeout 50ms\n}", svc.Addr)
	caddytest.LeakCheck(t)
	var wedged []*net.TCPConn
	for i := range 3 {
		caddytest.Dial(t, addr)
		wedged = append(wedged, svc.Next(t))
		caddytest.InLine(t, "default", 0, 0)
		expectLeftOver(t, i+1)
	}
	for i, which := range []int{1, 0, 2} {
		svc.Leave(wedged[which])
		expectLeftOver(t, 2-i)
	}
}

// A timeout hook makes the service close the connection. The proxy returns while the hook still
// runs. That releases the slot neither before the hook has ended nor a second time. Nothing is
// left over.
func TestTimeoutHookEndsConnection(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	hooks, letGo := caddytest.HoldHooks()
	defer letGo()
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nhold_timeout 50ms\non timeout test_call\non release test_call\n}", svc.Addr)
	caddytest.LeakCheck(t)
	caddytest.Dial(t, addr)
	wedged := svc.Next(t)
	caddytest.Dial(t, addr)
	h := expectHook(t, hooks, "timeout", "hold_timeout", 1)
	svc.Leave(wedged)
	svc.NoneComes(t, "the timeout hook still runs")
	close(h.GoOn)
	close(expectHook(t, hooks, "release", "hold_timeout", 1).GoOn)
	next := svc.Next(t)
	expectLeftOver(t, 0)
	svc.Leave(next)
	h = expectHook(t, hooks, "timeout", "hold_timeout", 2) // the second client stays, for linger
	close(h.GoOn)
	close(expectHook(t, hooks, "release", "hold_timeout", 2).GoOn)
	caddytest.InLine(t, "default", 0, 0)
}

// A timeout hook fails, or panics. The release hook still runs, and the slot is handed on.
func TestTimeoutHookFails(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("test") },
		"panic": func() error { panic("test") },
	} {
		t.Run(name, func(t *testing.T) {
			var released atomic.Int32
			call := func(m hook.Moment) error {
				if m.On == "release" {
					if m.Connection == 1 { // the second one is cut as well, soon
						released.Add(1)
					}
					return nil
				}
				return fail()
			}
			caddytest.OnCall(call)
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, "tcplock {\nhold_timeout 50ms\non timeout test_call\non release test_call\n}", svc.Addr)
			caddytest.Dial(t, addr)
			svc.Next(t)
			caddytest.Dial(t, addr)
			svc.Next(t)
			if n := released.Load(); n != 1 {
				t.Errorf("%d release hooks have run, expected 1", n)
			}
		})
	}
}

// Four hundred connections through four slots end shortly before hold_timeout, shortly after
// it, or just then. Whichever end comes first, the release hook runs once for each, after the
// timeout hook if that has run. Then all slots are free again, and no more than that.
func TestHoldTimeoutMeetsEnd(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const hold, connections, slots = 40 * time.Millisecond, 400, 4
	var mu sync.Mutex
	ran := make(map[uint64][]string)
	call := func(m hook.Moment) error {
		mu.Lock()
		defer mu.Unlock()
		ran[m.Connection] = append(ran[m.Connection], m.On+" "+m.Reason)
		return nil
	}
	caddytest.OnCall(call)
	svc := caddytest.NewService(t, func(*net.TCPConn) {
		time.Sleep(hold/2 + rand.N(hold*6/10))
	})
	addr := caddytest.LockServer(t, fmt.Sprintf("tcplock %d {\nlinger 0\nhold_timeout %s\non timeout test_call\non release test_call\n}", slots, hold), svc.Addr)
	caddytest.LeakCheck(t)
	work := make(chan struct{})
	var clients sync.WaitGroup
	for range 3 * slots {
		clients.Go(func() {
			for range work {
				conn := caddytest.Dial(t, addr)
				caddytest.ExpectClosed(t, conn)
				conn.Close()
			}
		})
	}
	for range connections {
		work <- struct{}{}
	}
	close(work)
	clients.Wait()
	caddytest.InLine(t, "default", 0, 0)
	expectLeftOver(t, 0)

	inTime := 0
	for _, hooks := range ran {
		if slices.Equal(hooks, []string{"release served"}) {
			inTime++
		} else if !slices.Equal(hooks, []string{"timeout hold_timeout", "release hold_timeout"}) {
			t.Errorf("one connection's hooks were %v", hooks)
		}
	}
	if len(ran) != connections || inTime == 0 || inTime == connections {
		t.Errorf("%d of %d connections ended in time, expected some of %d", inTime, len(ran), connections)
	}
	caddytest.Load(t, caddytest.LockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), caddytest.NewService(t, nil).Addr))
	caddytest.Fill(t, addr, "default", slots, 2)
}

// A service that closes the connection of a cut client, if only after a while, never sees the
// next client beside it, and nothing is left over.
func TestTimeoutServiceLetsGo(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	const clients = 5
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		caddytest.Echo(conn)
		time.Sleep(30 * time.Millisecond) // it is slow to close
	})
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock {\nhold_timeout 50ms\n}", svc.Addr))
	caddytest.Load(t, config)
	for range clients {
		caddytest.Dial(t, addr)
	}
	caddytest.Eventually(t, "all are cut", func() bool { return a.Lock(t, "default").Connections["hold_timeout"] == clients })
	if _, most, total := svc.Counts(); most != 1 || total != clients {
		t.Errorf("found %d at once and %d in all at the service, expected 1 and %d", most, total, clients)
	}
	for _, e := range a.Lock(t, "default").Events {
		if e.Event != "timeout" {
			t.Errorf("found %+v, expected only timeouts", e)
		}
	}
}

// However a holder ends, the service gets a pause of settle before the next activation. The pause
// begins after the hooks. With settle 0 there is none.
func TestSettle(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, settle := range []time.Duration{0, 300 * time.Millisecond} {
		for _, end := range []struct {
			options, hook, reason string
		}{
			{options: "linger 0"},
			{"linger 0\non release test_call", "release", "served"},
			{"hold_timeout 50ms\non timeout test_call", "timeout", "hold_timeout"},
		} {
			t.Run(fmt.Sprintf("%s hook, settle %s", cmp.Or(end.hook, "no"), settle), func(t *testing.T) {
				hooks, letGo := caddytest.HoldHooks()
				defer letGo()
				svc := caddytest.NewService(t, nil)
				addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nsettle %s\n%s\n}", settle, end.options), svc.Addr)
				const clients = 5
				for range clients {
					caddytest.Dial(t, addr)
				}
				shortest := time.Hour
				conn := svc.Next(t)
				for i := range clients - 1 {
					ended := time.Now()
					if end.hook != "timeout" {
						svc.Leave(conn)
					}
					if end.hook != "" {
						h := expectHook(t, hooks, end.hook, end.reason, uint64(i+1))
						if end.hook == "timeout" { // at other moments the service has closed already
							svc.Leave(conn)
						}
						ended = time.Now()
						close(h.GoOn)
					}
					conn = svc.Next(t)
					shortest = min(shortest, time.Since(ended))
				}
				if shortest < settle || shortest > settle+200*time.Millisecond {
					t.Errorf("the shortest pause was %s, expected %s", shortest, settle)
				}
			})
		}
	}
}

// While one slot settles, the other one is free.
func TestSettleIsTheSlotsOwn(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const settle = 3 * time.Second
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, fmt.Sprintf("tcplock 2 {\nlinger 0\nsettle %s\n}", settle), svc.Addr)
	caddytest.Dial(t, addr)
	svc.Leave(svc.Next(t))
	start := time.Now()
	caddytest.Dial(t, addr)
	svc.Next(t)
	if took := time.Since(start); took > settle/2 {
		t.Errorf("the other slot was granted after %s, expected at once", took)
	}
	caddytest.InLine(t, "default", 2, 0) // the first one still settles
}
