package tcplock_test

import (
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// reload puts other workers in force: those with these numbers.
func (p *pool) reload(t *testing.T, workers ...int) {
	t.Helper()
	var addrs []string
	for _, w := range workers {
		addrs = append(addrs, p.workers[w].addr)
	}
	load(t, poolConfig(p.addr, "", addrs...))
}

// A worker that a reload adds gets the first in line at once. One that it removes keeps
// the client it has, and gets nobody else. It may come back while it has that client, and
// after it, and it is still the same one: it gets no second client. The workers that stay
// are not disturbed.
func TestReloadWorkers(t *testing.T) {
	p := &pool{addr: freeAddr(t)}
	for range 4 {
		p.workers = append(p.workers, newService(t, nil))
	}
	w := p.workers
	p.reload(t, 0, 1)
	leakCheck(t)
	p.come(t, 0, 9, 2)
	at0, at1 := w[0].gets(t, 0), w[1].gets(t, 1)
	p.reload(t, 0, 1, 2)
	at2 := w[2].gets(t, 2)
	p.reload(t, 2, 3) // which is to say without the first two
	at3 := w[3].gets(t, 3)
	inLine(t, "default", 4, 6)
	w[0].leave(at0)
	inLine(t, "default", 3, 6)
	w[0].nobody(t, "it is removed")
	p.reload(t, 1, 0) // both are back, the second with its client, and the others are not
	at0 = w[0].gets(t, 4)
	w[1].nobody(t, "it has a client still")
	w[2].leave(at2)
	w[3].leave(at3)
	inLine(t, "default", 2, 5)
	w[1].leave(at1)
	at1 = w[1].gets(t, 5)
	w[0].leave(at0)
	at0 = w[0].gets(t, 6)
	p.reload(t, 3, 1, 2, 0) // in another order
	at3, at2 = w[3].gets(t, 7), w[2].gets(t, 8)
	w[0].leave(at0)
	at0 = w[0].gets(t, 9)
	for i, conn := range []*net.TCPConn{at0, at1, at2, at3} {
		w[i].leave(conn)
	}
	inLine(t, "default", 0, 0)
	neverTwo(t, w...)
}

// One of three workers is removed while nobody is there, and it is not the last one. The
// two that are left get all the clients.
func TestReloadRemovesFreeWorker(t *testing.T) {
	p := &pool{addr: freeAddr(t)}
	for range 3 {
		p.workers = append(p.workers, newService(t, nil))
	}
	p.reload(t, 0, 1, 2)
	leakCheck(t)
	p.reload(t, 0, 2)
	p.come(t, 0, 3, 2)
	for i, w := range []int{0, 2} {
		p.workers[w].leave(p.workers[w].gets(t, i))
		at := p.workers[w].gets(t, 2+i)
		defer p.workers[w].leave(at)
	}
	inLine(t, "default", 2, 0)
}

// From plain slots to workers and back to slots, with holders and waiters: who has a slot
// keeps it, the line goes on, and a worker that comes back while it still has its client
// gets no second one.
func TestReloadSlotsToWorkersAndBack(t *testing.T) {
	svc, a, b := newService(t, nil), newService(t, nil), newService(t, nil)
	p := &pool{addr: freeAddr(t), workers: []*service{a, b}}
	slots := func(n int) { load(t, lockConfig(p.addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", n), svc.addr)) }
	slots(2)
	leakCheck(t)
	plain := []*net.TCPConn{}
	for i := range 2 {
		plainly(t, p.addr, number(i))
		plain = append(plain, svc.gets(t, i))
	}
	p.reload(t, 0, 1)
	for i := 2; i < 5; i++ {
		plainly(t, p.addr, number(i))
		inLine(t, "default", 2, i-1)
	}
	a.nobody(t, "who has a slot may be there")
	var at []*net.TCPConn
	for i, w := range p.workers {
		svc.leave(plain[i])
		at = append(at, w.gets(t, 2+i))
	}
	inLine(t, "default", 2, 1)
	a.leave(at[0])
	at[0] = a.gets(t, 4)
	inLine(t, "default", 2, 0)

	slots(3)
	plainly(t, p.addr, number(5))
	conn := svc.gets(t, 5)
	inLine(t, "default", 3, 0)
	plainly(t, p.addr, number(6))
	inLine(t, "default", 3, 1)
	svc.leave(conn)
	svc.leave(svc.gets(t, 6))
	inLine(t, "default", 2, 0)

	p.reload(t, 1, 0) // both have their clients still
	plainly(t, p.addr, number(7))
	inLine(t, "default", 2, 1)
	a.nobody(t, "it has a client still")
	b.nobody(t, "it has a client still")
	a.leave(at[0])
	a.leave(a.gets(t, 7))
	slots(2)
	b.leave(at[1])
	inLine(t, "default", 0, 0)
	for i := 8; i < 10; i++ {
		plainly(t, p.addr, number(i))
		plain[i-8] = svc.gets(t, i)
	}
	for _, conn := range plain {
		svc.leave(conn)
	}
	inLine(t, "default", 0, 0)
	neverTwo(t, a, b)
}

// The worker is down, and its client in line, when a reload gives the lock another one:
// the client gets that, without having to wait for the first one's next try.
func TestReloadWhileAllWorkersAreDown(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	load(t, poolConfig(addr, "", freeAddr(t)))
	leakCheck(t)
	for i := range 3 {
		plainly(t, addr, number(i))
		inLine(t, "default", 0, i+1)
	}
	load(t, poolConfig(addr, "", svc.addr))
	for i := range 3 {
		svc.leave(svc.gets(t, i))
	}
	inLine(t, "default", 0, 0)
}

// Fifty reloads, each with other workers out of five, in another order, while twelve
// clients come one after the other as fast as they can. No worker ever has two connections,
// each client gets its answer, and nothing is left behind. (Why a unix socket: see
// TestReloadsUnderLoad.)
func TestFiftyReloadsOfWorkers(t *testing.T) {
	const clients, workers, reloads = 12, 5, 50
	dir, err := os.MkdirTemp("", "tcplock") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	p := &pool{addr: "unix/" + socket}
	for range workers {
		p.workers = append(p.workers, newService(t, func(conn *net.TCPConn) {
			_, _ = io.CopyN(conn, conn, int64(len("question")))
		}))
	}
	p.reload(t, 0)
	leakCheck(t)
	var asked atomic.Int32
	var over atomic.Bool
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for !over.Load() {
				ask(t, socket, "question", nil)
				asked.Add(1)
			}
		})
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for range reloads {
		some := random.Perm(workers)[:1+random.IntN(workers)]
		before := asked.Load()
		p.reload(t, some...)
		eventually(t, "the line goes on", func() bool { return asked.Load() > before+5 })
	}
	over.Store(true)
	all.Wait()
	inLine(t, "default", 0, 0)
	neverTwo(t, p.workers...)
	sum := 0
	for _, w := range p.workers {
		_, _, total := w.counts()
		sum += total
	}
	if sum != int(asked.Load()) {
		t.Errorf("the workers had %d connections, expected %d", sum, asked.Load())
	}
}
