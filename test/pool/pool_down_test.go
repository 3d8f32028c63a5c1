package pool_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The two ways in which the lock learns that a worker is down: from the proxy, or from a check
// before it.
var checks = map[string]string{"found by the proxy": "", "found by a check": "worker_check 5s"}

// Of three workers one is down. Its client is not lost, nor what the client has sent: it gets
// the next free worker. When the worker is up again, it serves clients again.
func TestWorkerDownIsSkipped(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr, down := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
			first, last := caddytest.NewService(t, nil), caddytest.NewService(t, nil)
			caddytest.Load(t, caddytest.PoolConfig(addr, check, first.Addr, down, last.Addr))
			caddytest.LeakCheck(t)
			var at [2]*net.TCPConn
			for i, svc := range []*caddytest.Service{first, last} {
				caddytest.DialSend(t, addr, caddytest.Number(i))
				at[i] = svc.Gets(t, i)
			}
			for i := 2; i < 5; i++ {
				caddytest.DialSend(t, addr, caddytest.Number(i))
				caddytest.InLine(t, "default", 2, 1)
				first.Leave(at[0])
				at[0] = first.Gets(t, i)
			}
			caddytest.DialSend(t, addr, caddytest.Number(5))
			caddytest.InLine(t, "default", 2, 1)
			up := caddytest.NewServiceAt(t, down, nil)
			up.Leave(up.Gets(t, 5))
			first.Leave(at[0])
			last.Leave(at[1])
			caddytest.InLine(t, "default", 0, 0)
			if check == "" {
				caddytest.NeverTwo(t, first, last, up)
			}
		})
	}
}

// While a client finds its worker down, others come. Then it stands before them, and gets the
// next worker that becomes free.
func TestWorkerDownKeepsPlace(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	tries, letGo := caddytest.HoldTries(2)
	defer letGo()
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.PoolConfig(addr, "on activate test_call", svc.Addr, caddytest.FreeAddr(t)))
	caddytest.LeakCheck(t)
	p := &pool{addr: addr}
	p.come(t, 0, 3, 2)
	at := svc.Gets(t, 0)
	for range 4 { // then the worker is left out for long enough
		close(caddytest.NextCall(t, tries, "activate", 2).GoOn)
	}
	caddytest.InLine(t, "default", 1, 3)
	for i := 1; i < 4; i++ {
		svc.Leave(at)
		at = svc.Gets(t, i)
	}
	svc.Leave(at)
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, svc)
}

// The only worker is down. The line stands still, and waiters may leave it. When the worker
// comes up, it serves all the others, in order, with what they have sent.
func TestAllWorkersDown(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr, down := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
			caddytest.Load(t, caddytest.PoolConfig(addr, check+"\nhalf_closed drop", down))
			caddytest.LeakCheck(t)
			var clients []net.Conn
			for i := range 6 {
				clients = append(clients, caddytest.DialSend(t, addr, caddytest.Number(i)))
				caddytest.InLine(t, "default", 0, i+1)
			}
			for i, left := range []int{0, 3, 5} { // the head of the line, its middle, its end
				clients[left].Close()
				caddytest.InLine(t, "default", 0, 5-i)
			}
			up := caddytest.NewServiceAt(t, down, nil)
			for _, i := range []int{1, 2, 4} {
				up.Leave(up.Gets(t, i))
				caddytest.ExpectEOF(t, clients[i])
			}
			caddytest.InLine(t, "default", 0, 0)
		})
	}
}

// All workers are down, over TCP and over unix sockets. The one that comes up serves all
// clients. (Not in order: each of the first three has tried another worker.)
func TestOneOfManyComesUp(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr, down := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
			caddytest.Load(t, caddytest.PoolConfig(addr, check, "unix/"+filepath.Join(t.TempDir(), "nobody"), down, caddytest.FreeAddr(t)))
			caddytest.LeakCheck(t)
			var clients []net.Conn
			for i := range 5 {
				clients = append(clients, caddytest.DialSend(t, addr, caddytest.Number(i)))
				caddytest.InLine(t, "default", 0, i+1)
			}
			up := caddytest.NewServiceAt(t, down, func(conn *net.TCPConn) { _, _ = io.CopyN(conn, conn, 3) })
			for i, client := range clients {
				caddytest.Expect(t, client, caddytest.Number(i))
				caddytest.ExpectEOF(t, client)
			}
			caddytest.InLine(t, "default", 0, 0)
			if check == "" {
				caddytest.NeverTwo(t, up)
			}
		})
	}
}

// All workers are down for longer than the clients may wait. Each is refused with the reason
// when its time in line is over, whatever workers it has tried meanwhile.
func TestWaitTimeoutWhileWorkersAreDown(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const wait = 1700 * time.Millisecond
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr := caddytest.FreeAddr(t)
			caddytest.Load(t, caddytest.PoolConfig(addr, fmt.Sprintf("%s\nwait_timeout %s\nrefuse {\ntest_tell_reason\n}", check, wait), caddytest.FreeAddr(t), caddytest.FreeAddr(t)))
			caddytest.LeakCheck(t)
			start := time.Now()
			clients := []net.Conn{caddytest.Dial(t, addr), caddytest.Dial(t, addr), caddytest.Dial(t, addr)}
			for _, client := range clients {
				caddytest.Expect(t, client, "wait_timeout")
				if took := time.Since(start); took < wait || took > 2*wait {
					t.Errorf("refused after %s, expected %s", took, wait)
				}
				caddytest.ExpectEOF(t, client)
			}
			caddytest.InLine(t, "default", 0, 0)
		})
	}
}

// The only worker is down. It is left out for half a second, then for twice as long each time,
// and then the first waiter tries it. When a client has got through, the times begin at half a
// second again.
func TestWorkerLeftOutTwiceAsLong(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	type try struct {
		client string
		at     time.Time // by the hook's clock: the test may hear of it late
	}
	tries := make(chan try, 100)
	call := func(m hook.Moment) error {
		tries <- try{m.Client, time.Now()}
		return nil
	}
	caddytest.OnCall(call)
	addr, down := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.PoolConfig(addr, "on activate test_call", down))
	caddytest.LeakCheck(t)
	client := caddytest.DialSend(t, addr, caddytest.Number(0))
	tried := func() (at time.Time) {
		t.Helper()
		select {
		case try := <-tries:
			if try.client != client.LocalAddr().String() {
				t.Errorf("%s was tried, expected %s, the first in line", try.client, client.LocalAddr())
			}
			return try.at
		case <-time.After(caddytest.Patience):
			t.Fatal("no client tried the worker")
			return time.Time{}
		}
	}
	last := tried()
	caddytest.DialSend(t, addr, caddytest.Number(1))
	for _, want := range []time.Duration{500 * time.Millisecond, time.Second} {
		at := tried()
		if gap := at.Sub(last); gap < want || gap > caddytest.Patience/4 {
			t.Errorf("tried again after %s, expected %s", gap, want)
		}
		last = at
	}
	t.Run("up for a while", func(t *testing.T) {
		up := caddytest.NewServiceAt(t, down, nil)
		up.Leave(up.Gets(t, 0))
		up.Leave(up.Gets(t, 1))
		caddytest.InLine(t, "default", 0, 0)
	})
	for len(tries) > 0 {
		<-tries
	}
	client = caddytest.Dial(t, addr)
	last = tried()
	if gap := tried().Sub(last); gap > 1900*time.Millisecond { // it would be 2s
		t.Errorf("tried again after %s, expected 500ms", gap)
	}
	client.Close()
}

// The check comes before the hooks. No hook runs for a worker that is down, and a worker that
// is up first sees a connection without data.
func TestWorkerCheckComesFirst(t *testing.T) {
	hooks, letGo := caddytest.HoldHooks()
	defer letGo()
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.PoolConfig(addr, "worker_check\non activate test_call", caddytest.FreeAddr(t), svc.Addr))
	caddytest.LeakCheck(t)
	caddytest.DialSend(t, addr, caddytest.Number(0))
	h := caddytest.NextCall(t, hooks, "activate", 2)
	conn := svc.Next(t)
	caddytest.ExpectClosed(t, conn)
	svc.Leave(conn)
	svc.NoneComes(t, "the hook has not ended")
	close(h.GoOn)
	svc.Leave(svc.Gets(t, 0))
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, svc)
}

// A worker that accepts the connection and resets it is not down: it has got its client. No
// other worker gets that client, and the worker gets the next client at once.
func TestWorkerThatBreaksIsNotDown(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, 1, check)
			clients := p.come(t, 0, 3, 1)
			for i := range 4 {
				conn := p.workers[0].Gets(t, i)
				_ = conn.SetLinger(0)
				p.workers[0].Leave(conn)
				caddytest.ExpectClosed(t, clients[i])
			}
			caddytest.InLine(t, "default", 0, 0)
			if _, _, total := p.workers[0].Counts(); check == "" && total != 4 {
				t.Errorf("the worker had %d connections, expected 4", total)
			}
		})
	}
}

// A handler between the lock and the proxy peeks at what the client has sent, and then the
// worker is down. The next worker gets all of it.
func TestWorkerDownBehindMatcher(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.Global(fmt.Sprintf("layer4 {\n%s {\nroute {\n%s\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\nproxy {l4.tcplock.worker}\n}\n}\n}\n}\n}",
		addr, caddytest.PoolLock("", caddytest.FreeAddr(t), svc.Addr))))
	caddytest.LeakCheck(t)
	client := caddytest.DialSend(t, addr, caddytest.Number(7)+"more")
	conn := svc.Gets(t, 7)
	caddytest.Expect(t, conn, "more")
	caddytest.Send(t, client, "still here?")
	caddytest.Expect(t, conn, "still here?")
	svc.Leave(conn)
	caddytest.ExpectEOF(t, client)
}

// A refused connection may come to the same lock again, as a last chance. It has no slot, so
// this is not its second. It goes to the end of the line.
func TestRefusedJoinsSameLock(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	hooks, letGo := caddytest.HoldHooks()
	defer letGo()
	svc, again := caddytest.NewService(t, nil), caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	lock := "tcplock {\nname same\nlinger 0\nwait_timeout 5s\non refuse test_call\nrefuse {\ntcplock {\nname same\n}\nproxy %s\n}\n}"
	caddytest.Load(t, caddytest.ProxyConfig(addr, fmt.Sprintf(lock, again.Addr), svc.Addr))
	caddytest.LeakCheck(t)
	caddytest.DialSend(t, addr, caddytest.Number(0))
	conn := svc.Gets(t, 0)
	caddytest.DialSend(t, addr, caddytest.Number(1))
	caddytest.InLine(t, "same", 1, 1)
	caddytest.NextCall(t, hooks, "refuse", 0)
	caddytest.InLine(t, "same", 1, 1)
	svc.Leave(conn)
	again.Leave(again.Gets(t, 1))
	caddytest.InLine(t, "same", 0, 0)
}

// The log says which worker is left out, and for how long.
func TestWorkerDownIsLogged(t *testing.T) {
	addr, down := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	svc := caddytest.NewService(t, nil)
	option, logged := caddytest.LogFile(t)
	option = strings.Replace(option, "ERROR", "WARN", 1)
	caddytest.Load(t, strings.Replace(caddytest.PoolConfig(addr, "", down, svc.Addr), "layer4 {", option+"\nlayer4 {", 1))
	caddytest.DialSend(t, addr, caddytest.Number(0))
	svc.Leave(svc.Gets(t, 0))
	logged(t, "worker cannot be reached, left out")
	logged(t, fmt.Sprintf(`"worker":"%s","for":0.5`, down))
}

// A handler between the lock and the proxy has read the first bytes, a PROXY header, and then
// the worker is down. These bytes are gone, so the client cannot go to another worker: it is
// closed at once. The worker is left out.
func TestWorkerDownWhenClientHasBeenRead(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.LockConfig(addr, caddytest.PoolLock("", caddytest.FreeAddr(t), svc.Addr)+"\n"+caddytest.AllowProxy, "{l4.tcplock.worker}"))
	caddytest.LeakCheck(t)
	caddytest.ExpectClosed(t, caddytest.DialSend(t, addr, caddytest.ProxyHeader+caddytest.Number(0)))
	conn := caddytest.DialSend(t, addr, caddytest.ProxyHeader+caddytest.Number(1)).(*net.TCPConn)
	at := svc.Gets(t, 1)
	svc.Leave(at)
	conn.Close()
	caddytest.InLine(t, "default", 0, 0)
}
