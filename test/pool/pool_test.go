package pool_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// pool is a lock with workers that the test serves by hand, and its clients.
type pool struct {
	addr    string
	workers []*caddytest.Service
}

// newPool starts Caddy with a lock in front of so many workers.
func newPool(t *testing.T, workers int, options string) *pool {
	t.Helper()
	p := &pool{addr: caddytest.FreeAddr(t)}
	var addrs []string
	for range workers {
		p.workers = append(p.workers, caddytest.NewService(t, nil))
		addrs = append(addrs, p.workers[len(p.workers)-1].Addr)
	}
	caddytest.Load(t, caddytest.PoolConfig(p.addr, options, addrs...))
	caddytest.LeakCheck(t)
	return p
}

// come lets clients come, up to number to, one after the other. Clients that find no free
// worker are in line.
func (p *pool) come(t *testing.T, from, to, workers int) (clients []net.Conn) {
	t.Helper()
	for i := from; i <= to; i++ {
		clients = append(clients, caddytest.DialSend(t, p.addr, caddytest.Number(i)))
		caddytest.InLine(t, "default", min(i-from+1, workers), max(0, i-from+1-workers))
	}
	return clients
}

// Three workers get one client each. There is one line for all: each worker that becomes free
// gets the client that has waited longest. When the line is empty, a new client gets the worker
// that has been free longest.
func TestPoolIsOneLine(t *testing.T) {
	p := newPool(t, 3, "")
	p.come(t, 0, 8, 3)
	at := make([]*net.TCPConn, 3)
	for w := range at {
		at[w] = p.workers[w].Gets(t, w)
	}
	for i, w := range []int{2, 0, 1, 1, 0, 2} {
		p.workers[w].Leave(at[w])
		at[w] = p.workers[w].Gets(t, 3+i)
	}
	for i, w := range []int{1, 2, 0} {
		p.workers[w].Leave(at[w])
		caddytest.InLine(t, "default", 2-i, 0)
	}
	p.come(t, 9, 11, 3)
	for i, w := range []int{1, 2, 0} {
		at[w] = p.workers[w].Gets(t, 9+i)
	}
	for w := range at {
		p.workers[w].Leave(at[w])
	}
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, p.workers...)
}

// Many clients at once, over TCP and over a unix socket worker. Each gets its answer, no worker
// ever has two, and both are used.
func TestPoolUnderLoad(t *testing.T) {
	serve := func(conn *net.TCPConn) { _, _ = io.CopyN(conn, conn, 3) }
	svc, behind := caddytest.NewService(t, serve), caddytest.NewService(t, serve)
	socket := unixWorker(t, behind.Addr)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.PoolConfig(addr, "", svc.Addr, "unix/"+socket))
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for range 25 {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
				_, _ = io.WriteString(conn, caddytest.Number(i))
				if got, err := io.ReadAll(conn); err != nil || string(got) != caddytest.Number(i) {
					t.Errorf("read %q, error %v, expected %s", got, err, caddytest.Number(i))
				}
				conn.Close()
			}
		})
	}
	clients.Wait()
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, svc, behind)
	_, _, one := svc.Counts()
	_, _, other := behind.Counts()
	if one+other != 200 || one == 0 || other == 0 {
		t.Errorf("the workers had %d and %d connections, expected 200 in all, and some each", one, other)
	}
}

// unixWorker listens on a unix socket and passes each connection on to addr.
func unixWorker(t *testing.T, addr string) (socket string) {
	t.Helper()
	socket = caddytest.Socket(t)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Skip("no unix sockets here:", err)
	}
	var passing sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		passing.Wait()
	})
	passing.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			passing.Go(func() {
				defer from.Close()
				to, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer to.Close()
				passing.Go(func() { _, _ = io.Copy(to, from) })
				_, _ = io.Copy(from, to)
			})
		}
	})
	return socket
}

// Commands and events get their slot and their worker, in arguments, the environment and data.
// The placeholder in the proxy has the worker too: that is how the client got there.
func TestPoolPlaceholders(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "notes")
	p := newPool(t, 2, fmt.Sprintf("on activate exec sh -c \"echo $TCPLOCK_SLOT=$TCPLOCK_WORKER=$1 >> '%s'\" sh {l4.tcplock.slot}={l4.tcplock.worker}", notes))
	var want []string
	for i, w := range []int{0, 1, 0} {
		p.come(t, i, i, 1)
		conn := p.workers[w].Gets(t, i)
		p.workers[w].Leave(conn)
		caddytest.InLine(t, "default", 0, 0)
		said := fmt.Sprintf("%d=%s", w+1, p.workers[w].Addr)
		want = append(want, said+"="+said)
	}
	if got := caddytest.Noted(t, notes); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Hooks and the handlers after tcplock have the worker's host and port too.
func TestPoolPlaceholdersOfAddress(t *testing.T) {
	notes, addr := filepath.Join(t.TempDir(), "notes"), caddytest.FreeAddr(t)
	svc := caddytest.NewService(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "hello") })
	caddytest.Load(t, caddytest.LockConfig(addr, caddytest.PoolLock(fmt.Sprintf(`
		on activate {
			exec sh -c "echo $1 $TCPLOCK_WORKER_HOST:$TCPLOCK_WORKER_PORT >> '%s'" sh {l4.tcplock.worker_host}:{l4.tcplock.worker_port}
			wait {l4.tcplock.worker_host}:{l4.tcplock.worker_port}
		}`, notes), svc.Addr), "{l4.tcplock.worker_host}:{l4.tcplock.worker_port}"))
	client := caddytest.Dial(t, addr)
	caddytest.Expect(t, client, "hello")
	caddytest.ExpectEOF(t, client)
	if got, want := caddytest.Noted(t, notes), []string{svc.Addr, svc.Addr}; !slices.Equal(got, want) {
		t.Errorf("found %q, expected %q", got, want)
	}
}

// The first worker's hooks take long, before and after its client. The other worker's clients
// come and go meanwhile.
func TestHooksOfOneWorkerHoldBackNoOther(t *testing.T) {
	hooks, letGo := caddytest.HoldHooks()
	defer letGo()
	p := newPool(t, 2, "on activate test_call\non release test_call")
	p.come(t, 0, 4, 2)
	slow := caddytest.NextCall(t, hooks, "activate", 1)
	for i := 1; i <= 3; i++ {
		close(caddytest.NextCall(t, hooks, "activate", 2).GoOn)
		p.workers[1].Leave(p.workers[1].Gets(t, i))
		close(caddytest.NextCall(t, hooks, "release", 2).GoOn)
	}
	p.workers[0].NoneComes(t, "its hook has not ended")
	close(slow.GoOn)
	p.workers[0].Leave(p.workers[0].Gets(t, 0))
	slow = caddytest.NextCall(t, hooks, "activate", 2, "release", 1)
	close(slow.GoOn)
	close(caddytest.NextCall(t, hooks, "activate", 2, "release", 1).GoOn)
	p.workers[1].Leave(p.workers[1].Gets(t, 4))
	close(caddytest.NextCall(t, hooks, "release", 2).GoOn)
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, p.workers...)
}

// An exclusive hook is alone at all the workers. It waits for the holders of the others, and
// while it waits and runs, no client goes to a free worker.
func TestExclusiveHookHasAllWorkers(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	hooks, letGo := caddytest.HoldHooks()
	defer letGo()
	p := newPool(t, 3, "on activate {\nexclusive\nevery 3\ntest_call\n}")
	caddytest.DialSend(t, p.addr, caddytest.Number(0))
	first := caddytest.NextCall(t, hooks, "activate", 1) // it is due at once
	for i := 1; i <= 5; i++ {
		caddytest.DialSend(t, p.addr, caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	for _, w := range p.workers {
		w.NoneComes(t, "the hook has not ended")
	}
	close(first.GoOn)
	var at []*net.TCPConn
	for w := range p.workers {
		at = append(at, p.workers[w].Gets(t, w))
	}
	p.workers[1].Leave(at[1]) // client 3 is the fourth: the hook is due again
	caddytest.InLine(t, "default", 3, 2)
	p.workers[0].Leave(at[0])
	caddytest.InLine(t, "default", 2, 2)
	select {
	case <-hooks:
		t.Fatal("the exclusive hook has run beside another client")
	case <-time.After(100 * time.Millisecond):
	}
	p.workers[2].Leave(at[2])
	again := caddytest.NextCall(t, hooks, "activate", 2)
	for _, w := range p.workers {
		w.NoneComes(t, "the hook has not ended")
	}
	close(again.GoOn)
	for i, w := range []int{1, 0, 2} { // 0 has been free longer than 2
		p.workers[w].Leave(p.workers[w].Gets(t, 3+i))
	}
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, p.workers...)
}

// A client cut by hold_timeout gives its worker to the next one. The other worker's client is
// not affected.
func TestPoolHoldTimeout(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	p := newPool(t, 2, "hold_timeout 2s")
	p.come(t, 0, 3, 2)
	wedged := p.workers[0].Gets(t, 0)
	p.workers[1].Leave(p.workers[1].Gets(t, 1))
	p.workers[1].Leave(p.workers[1].Gets(t, 2))
	other := p.workers[1].Gets(t, 3)
	caddytest.ExpectEOF(t, wedged)
	p.workers[0].Leave(wedged)
	caddytest.DialSend(t, p.addr, caddytest.Number(4))
	p.workers[0].Leave(p.workers[0].Gets(t, 4))
	caddytest.ExpectEOF(t, other)
	p.workers[1].Leave(other)
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, p.workers...)
}

// A handler that panics behind the lock releases its worker. It is no sign that the worker is
// down.
func TestPoolPanic(t *testing.T) {
	svcs := []*caddytest.Service{caddytest.NewService(t, nil), caddytest.NewService(t, nil)}
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.LockConfig(addr, caddytest.PoolLock("", svcs[0].Addr, svcs[1].Addr)+"\ntest_panic", "{l4.tcplock.worker}"))
	caddytest.LeakCheck(t)
	for range caddytest.Panics {
		caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	}
	caddytest.InLine(t, "default", 0, 0)
	p := &pool{addr, svcs}
	p.come(t, 0, 1, 2)
	last := 1 - caddytest.Panics%2 // five have come, so the first worker was given back last
	svcs[1-last].Leave(svcs[1-last].Gets(t, 0))
	svcs[last].Leave(svcs[last].Gets(t, 1))
	caddytest.InLine(t, "default", 0, 0)
}
