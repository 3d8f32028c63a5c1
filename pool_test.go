package tcplock_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pool is a line of clients in front of workers that are served by hand.
type pool struct {
	addr    string
	workers []*service
}

// newPool starts Caddy with a lock in front of so many workers.
func newPool(t *testing.T, workers int, options string) *pool {
	t.Helper()
	p := &pool{addr: freeAddr(t)}
	var addrs []string
	for range workers {
		p.workers = append(p.workers, newService(t, nil))
		addrs = append(addrs, p.workers[len(p.workers)-1].addr)
	}
	load(t, poolConfig(p.addr, options, addrs...))
	leakCheck(t)
	return p
}

// poolConfig is the Caddyfile of a lock in front of workers, with more options.
func poolConfig(addr, options string, workers ...string) string {
	return lockConfig(addr, poolLock(options, workers...), "{l4.tcplock.worker}")
}

func poolLock(options string, workers ...string) string {
	return fmt.Sprintf("tcplock {\nlinger 0\nworkers %s\n%s\n}", strings.Join(workers, " "), options)
}

// come lets clients come, up to number to, one after the other. Those that find no worker
// free are in line.
func (p *pool) come(t *testing.T, from, to, workers int) (clients []net.Conn) {
	t.Helper()
	for i := from; i <= to; i++ {
		clients = append(clients, plainly(t, p.addr, number(i)))
		inLine(t, "default", min(i-from+1, workers), max(0, i-from+1-workers))
	}
	return clients
}

// gets makes sure that client i is the next to come to the worker, with all it has sent.
func (s *service) gets(t *testing.T, i int) *net.TCPConn {
	t.Helper()
	for {
		conn := s.next(t)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		got := make([]byte, len(number(0)))
		if n, err := io.ReadFull(conn, got); err != nil && n == 0 {
			s.leave(conn) // a check
			continue
		}
		if string(got) != number(i) {
			t.Fatalf("client %s has come to the worker, expected %s", got, number(i))
		}
		return conn
	}
}

// neverTwo makes sure that no worker ever had two connections.
func neverTwo(t *testing.T, workers ...*service) {
	t.Helper()
	for i, w := range workers {
		if _, most, _ := w.counts(); most > 1 {
			t.Errorf("worker %d had %d connections at once, expected 1", i, most)
		}
	}
}

// Three workers get one client each, and the line behind them is one line: whichever
// worker comes free gets the client that has waited longest. When the line is empty, a
// newcomer gets the worker that has been free longest.
func TestPoolIsOneLine(t *testing.T) {
	p := newPool(t, 3, "")
	p.come(t, 0, 8, 3)
	at := make([]*net.TCPConn, 3)
	for w := range at {
		at[w] = p.workers[w].gets(t, w)
	}
	for i, w := range []int{2, 0, 1, 1, 0, 2} {
		p.workers[w].leave(at[w])
		at[w] = p.workers[w].gets(t, 3+i)
	}
	for i, w := range []int{1, 2, 0} {
		p.workers[w].leave(at[w])
		inLine(t, "default", 2-i, 0)
	}
	p.come(t, 9, 11, 3)
	for i, w := range []int{1, 2, 0} {
		at[w] = p.workers[w].gets(t, 9+i)
	}
	for w := range at {
		p.workers[w].leave(at[w])
	}
	inLine(t, "default", 0, 0)
	neverTwo(t, p.workers...)
}

// Many clients at once, over TCP and over a unix socket worker: each is answered, no worker
// ever has two, and both are put to use.
func TestPoolUnderLoad(t *testing.T) {
	serve := func(conn *net.TCPConn) { _, _ = io.CopyN(conn, conn, 3) }
	svc, behind := newService(t, serve), newService(t, serve)
	socket := unixWorker(t, behind.addr)
	addr := freeAddr(t)
	load(t, poolConfig(addr, "", svc.addr, "unix/"+socket))
	leakCheck(t)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for range 25 {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(conn, number(i))
				if got, err := io.ReadAll(conn); err != nil || string(got) != number(i) {
					t.Errorf("read %q, error %v, expected %s", got, err, number(i))
				}
				conn.Close()
			}
		})
	}
	clients.Wait()
	inLine(t, "default", 0, 0)
	neverTwo(t, svc, behind)
	_, _, one := svc.counts()
	_, _, other := behind.counts()
	if one+other != 200 || one == 0 || other == 0 {
		t.Errorf("the workers had %d and %d connections, expected 200 in all, and some each", one, other)
	}
}

// unixWorker listens on a unix socket and passes each connection on to addr.
func unixWorker(t *testing.T, addr string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcplock") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "w")
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

// Commands and events say which slot and which worker they are for, in arguments and in
// the environment, and so does the placeholder in the proxy, which is how the client has
// got there.
func TestPoolPlaceholders(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "notes")
	p := newPool(t, 2, fmt.Sprintf("on activate exec sh -c \"echo $TCPLOCK_SLOT=$TCPLOCK_WORKER=$1 >> '%s'\" sh {l4.tcplock.slot}={l4.tcplock.worker}", notes))
	var want []string
	for i, w := range []int{0, 1, 0} {
		p.come(t, i, i, 1)
		conn := p.workers[w].gets(t, i)
		p.workers[w].leave(conn)
		inLine(t, "default", 0, 0)
		said := fmt.Sprintf("%d=%s", w+1, p.workers[w].addr)
		want = append(want, said+"="+said)
	}
	if got := noted(t, notes); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Hooks and the handlers after tcplock have the two parts of the worker's address as well.
func TestPoolPlaceholdersOfAddress(t *testing.T) {
	notes, addr := filepath.Join(t.TempDir(), "notes"), freeAddr(t)
	svc := newService(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "hello") })
	load(t, lockConfig(addr, poolLock(fmt.Sprintf(`
		on activate {
			exec sh -c "echo $1 $TCPLOCK_WORKER_HOST:$TCPLOCK_WORKER_PORT >> '%s'" sh {l4.tcplock.worker_host}:{l4.tcplock.worker_port}
			wait {l4.tcplock.worker_host}:{l4.tcplock.worker_port}
		}`, notes), svc.addr), "{l4.tcplock.worker_host}:{l4.tcplock.worker_port}"))
	client := dial(t, addr)
	expect(t, client, "hello")
	expectEOF(t, client)
	if got, want := noted(t, notes), []string{svc.addr, svc.addr}; !slices.Equal(got, want) {
		t.Errorf("found %q, expected %q", got, want)
	}
}

// The first worker's hook takes its time, before and after its client. The other worker's
// clients come and go meanwhile.
func TestHooksOfOneWorkerHoldBackNoOther(t *testing.T) {
	hooks, letGo := holdHooks()
	defer letGo()
	p := newPool(t, 2, "on activate test_call\non release test_call")
	p.come(t, 0, 4, 2)
	slow := nextCall(t, hooks, "activate", 1)
	for i := 1; i <= 3; i++ {
		close(nextCall(t, hooks, "activate", 2).goOn)
		p.workers[1].leave(p.workers[1].gets(t, i))
		close(nextCall(t, hooks, "release", 2).goOn)
	}
	p.workers[0].nobody(t, "its hook has not ended")
	close(slow.goOn)
	p.workers[0].leave(p.workers[0].gets(t, 0))
	slow = nextCall(t, hooks, "activate", 2, "release", 1)
	close(slow.goOn)
	close(nextCall(t, hooks, "activate", 2, "release", 1).goOn)
	p.workers[1].leave(p.workers[1].gets(t, 4))
	close(nextCall(t, hooks, "release", 2).goOn)
	inLine(t, "default", 0, 0)
	neverTwo(t, p.workers...)
}

// nextCall waits for the next hook, which is one of those: a moment and a slot.
func nextCall(t *testing.T, hooks <-chan hook, of ...any) hook {
	t.Helper()
	select {
	case h := <-hooks:
		for i := 0; i < len(of); i += 2 {
			if h.On == of[i] && h.Slot == of[i+1] {
				return h
			}
		}
		t.Fatalf("hook %s of slot %d has run, expected %v", h.On, h.Slot, of)
		return hook{}
	case <-time.After(patience):
		t.Fatalf("no hook has run, expected %v", of)
		return hook{}
	}
}

// An exclusive hook is alone at all the workers: it waits for those who are at the others,
// and as long as it waits and runs nobody goes on to a worker that is free.
func TestExclusiveHookHasAllWorkers(t *testing.T) {
	hooks, letGo := holdHooks()
	defer letGo()
	p := newPool(t, 3, "on activate {\nexclusive\nevery 3\ntest_call\n}")
	plainly(t, p.addr, number(0))
	first := nextCall(t, hooks, "activate", 1) // it is due at once
	for i := 1; i <= 5; i++ {
		plainly(t, p.addr, number(i))
		inLine(t, "default", 1, i)
	}
	for _, w := range p.workers {
		w.nobody(t, "the hook has not ended")
	}
	close(first.goOn)
	var at []*net.TCPConn
	for w := range p.workers {
		at = append(at, p.workers[w].gets(t, w))
	}
	p.workers[1].leave(at[1]) // client 3 is the fourth: the hook is due again
	inLine(t, "default", 3, 2)
	p.workers[0].leave(at[0])
	inLine(t, "default", 2, 2)
	select {
	case <-hooks:
		t.Fatal("the exclusive hook has run beside another client")
	case <-time.After(100 * time.Millisecond):
	}
	p.workers[2].leave(at[2])
	again := nextCall(t, hooks, "activate", 2)
	for _, w := range p.workers {
		w.nobody(t, "the hook has not ended")
	}
	close(again.goOn)
	for i, w := range []int{1, 0, 2} { // 0 has been free longer than 2
		p.workers[w].leave(p.workers[w].gets(t, 3+i))
	}
	inLine(t, "default", 0, 0)
	neverTwo(t, p.workers...)
}

// A client cut by hold_timeout gives its worker to the next one; the other worker's client
// is not concerned.
func TestPoolHoldTimeout(t *testing.T) {
	p := newPool(t, 2, "hold_timeout 2s")
	p.come(t, 0, 3, 2)
	wedged := p.workers[0].gets(t, 0)
	p.workers[1].leave(p.workers[1].gets(t, 1))
	p.workers[1].leave(p.workers[1].gets(t, 2))
	other := p.workers[1].gets(t, 3)
	expectEOF(t, wedged)
	p.workers[0].leave(wedged)
	plainly(t, p.addr, number(4))
	p.workers[0].leave(p.workers[0].gets(t, 4))
	expectEOF(t, other)
	p.workers[1].leave(other)
	inLine(t, "default", 0, 0)
	neverTwo(t, p.workers...)
}

// A handler that panics behind the lock gives its worker back, and is no sign that the
// worker is down.
func TestPoolPanic(t *testing.T) {
	svcs := []*service{newService(t, nil), newService(t, nil)}
	addr := freeAddr(t)
	load(t, lockConfig(addr, poolLock("", svcs[0].addr, svcs[1].addr)+"\ntest_panic", "{l4.tcplock.worker}"))
	leakCheck(t)
	for range panics {
		expectClosed(t, dial(t, addr))
	}
	inLine(t, "default", 0, 0)
	p := &pool{addr, svcs}
	p.come(t, 0, 1, 2)
	last := 1 - panics%2 // five have come, so the first worker was given back last
	svcs[1-last].leave(svcs[1-last].gets(t, 0))
	svcs[last].leave(svcs[last].gets(t, 1))
	inLine(t, "default", 0, 0)
}
