package pool_test

import (
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// reload loads a config with the workers of these numbers.
func (p *pool) reload(t *testing.T, workers ...int) {
	t.Helper()
	var addrs []string
	for _, w := range workers {
		addrs = append(addrs, p.workers[w].Addr)
	}
	caddytest.Load(t, caddytest.PoolConfig(p.addr, "", addrs...))
}

// A worker that a reload adds gets the first waiter at once. A worker that it removes keeps its
// client and gets no other. It may come back while it has that client, or after it. It is still
// the same worker, and gets no second client. The workers that stay are not disturbed.
func TestReloadWorkers(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	p := &pool{addr: caddytest.FreeAddr(t)}
	for range 4 {
		p.workers = append(p.workers, caddytest.NewService(t, nil))
	}
	w := p.workers
	p.reload(t, 0, 1)
	caddytest.LeakCheck(t)
	p.come(t, 0, 9, 2)
	at0, at1 := w[0].Gets(t, 0), w[1].Gets(t, 1)
	p.reload(t, 0, 1, 2)
	at2 := w[2].Gets(t, 2)
	p.reload(t, 2, 3) // without the first two
	at3 := w[3].Gets(t, 3)
	caddytest.InLine(t, "default", 4, 6)
	w[0].Leave(at0)
	caddytest.InLine(t, "default", 3, 6)
	w[0].NoneComes(t, "it is removed")
	p.reload(t, 1, 0) // both are back, the second with its client, and the others are not
	at0 = w[0].Gets(t, 4)
	w[1].NoneComes(t, "it has a client still")
	w[2].Leave(at2)
	w[3].Leave(at3)
	caddytest.InLine(t, "default", 2, 5)
	w[1].Leave(at1)
	at1 = w[1].Gets(t, 5)
	w[0].Leave(at0)
	at0 = w[0].Gets(t, 6)
	p.reload(t, 3, 1, 2, 0) // in another order
	at3, at2 = w[3].Gets(t, 7), w[2].Gets(t, 8)
	w[0].Leave(at0)
	at0 = w[0].Gets(t, 9)
	for i, conn := range []*net.TCPConn{at0, at1, at2, at3} {
		w[i].Leave(conn)
	}
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, w...)
}

// A reload removes one of three workers, not the last one, while the lock is empty. The other
// two get all the clients.
func TestReloadRemovesFreeWorker(t *testing.T) {
	p := &pool{addr: caddytest.FreeAddr(t)}
	for range 3 {
		p.workers = append(p.workers, caddytest.NewService(t, nil))
	}
	p.reload(t, 0, 1, 2)
	caddytest.LeakCheck(t)
	p.reload(t, 0, 2)
	p.come(t, 0, 3, 2)
	for i, w := range []int{0, 2} {
		p.workers[w].Leave(p.workers[w].Gets(t, i))
		at := p.workers[w].Gets(t, 2+i)
		defer p.workers[w].Leave(at)
	}
	caddytest.InLine(t, "default", 2, 0)
}

// From plain slots to workers and back to slots, with holders and waiters. A holder keeps its
// slot, the line goes on, and a worker that comes back while it still has its client gets no
// second one.
func TestReloadSlotsToWorkersAndBack(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc, a, b := caddytest.NewService(t, nil), caddytest.NewService(t, nil), caddytest.NewService(t, nil)
	p := &pool{addr: caddytest.FreeAddr(t), workers: []*caddytest.Service{a, b}}
	slots := func(n int) {
		caddytest.Load(t, caddytest.LockConfig(p.addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", n), svc.Addr))
	}
	slots(2)
	caddytest.LeakCheck(t)
	plain := []*net.TCPConn{}
	for i := range 2 {
		caddytest.DialSend(t, p.addr, caddytest.Number(i))
		plain = append(plain, svc.Gets(t, i))
	}
	p.reload(t, 0, 1)
	for i := 2; i < 5; i++ {
		caddytest.DialSend(t, p.addr, caddytest.Number(i))
		caddytest.InLine(t, "default", 2, i-1)
	}
	a.NoneComes(t, "a holder from before may be there")
	var at []*net.TCPConn
	for i, w := range p.workers {
		svc.Leave(plain[i])
		at = append(at, w.Gets(t, 2+i))
	}
	caddytest.InLine(t, "default", 2, 1)
	a.Leave(at[0])
	at[0] = a.Gets(t, 4)
	caddytest.InLine(t, "default", 2, 0)

	slots(3)
	caddytest.DialSend(t, p.addr, caddytest.Number(5))
	conn := svc.Gets(t, 5)
	caddytest.InLine(t, "default", 3, 0)
	caddytest.DialSend(t, p.addr, caddytest.Number(6))
	caddytest.InLine(t, "default", 3, 1)
	svc.Leave(conn)
	svc.Leave(svc.Gets(t, 6))
	caddytest.InLine(t, "default", 2, 0)

	p.reload(t, 1, 0) // both have their clients still
	caddytest.DialSend(t, p.addr, caddytest.Number(7))
	caddytest.InLine(t, "default", 2, 1)
	a.NoneComes(t, "it has a client still")
	b.NoneComes(t, "it has a client still")
	a.Leave(at[0])
	a.Leave(a.Gets(t, 7))
	slots(2)
	b.Leave(at[1])
	caddytest.InLine(t, "default", 0, 0)
	for i := 8; i < 10; i++ {
		caddytest.DialSend(t, p.addr, caddytest.Number(i))
		plain[i-8] = svc.Gets(t, i)
	}
	for _, conn := range plain {
		svc.Leave(conn)
	}
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, a, b)
}

// The worker is down, and its client is back in line, when a reload gives the lock another
// worker. The client gets the new worker, without waiting for the next try of the old one.
func TestReloadWhileAllWorkersAreDown(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.PoolConfig(addr, "", caddytest.FreeAddr(t)))
	caddytest.LeakCheck(t)
	for i := range 3 {
		caddytest.DialSend(t, addr, caddytest.Number(i))
		caddytest.InLine(t, "default", 0, i+1)
	}
	caddytest.Load(t, caddytest.PoolConfig(addr, "", svc.Addr))
	for i := range 3 {
		svc.Leave(svc.Gets(t, i))
	}
	caddytest.InLine(t, "default", 0, 0)
}

// Fifty reloads, each with other workers of five, in another order, while twelve clients come
// one after the other as fast as they can. No worker ever has two connections, each client gets
// its answer, and nothing is left behind. (For the unix socket see TestReloadsUnderLoad.)
func TestFiftyReloadsOfWorkers(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const clients, workers, reloads = 12, 5, 50
	socket := caddytest.Socket(t)
	p := &pool{addr: "unix/" + socket}
	for range workers {
		p.workers = append(p.workers, caddytest.NewService(t, func(conn *net.TCPConn) {
			_, _ = io.CopyN(conn, conn, int64(len("question")))
		}))
	}
	p.reload(t, 0)
	caddytest.LeakCheck(t)
	asked, end := caddytest.KeepAsking(t, clients, socket)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for range reloads {
		some := random.Perm(workers)[:1+random.IntN(workers)]
		before := asked.Load()
		p.reload(t, some...)
		caddytest.Eventually(t, "the line goes on", func() bool { return asked.Load() > before+5 })
	}
	end()
	caddytest.InLine(t, "default", 0, 0)
	caddytest.NeverTwo(t, p.workers...)
	sum := 0
	for _, w := range p.workers {
		_, _, total := w.Counts()
		sum += total
	}
	if sum != int(asked.Load()) {
		t.Errorf("the workers had %d connections, expected %d", sum, asked.Load())
	}
}
