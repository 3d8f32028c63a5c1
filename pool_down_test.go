package tcplock_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// How a worker that is down is found out: by the proxy, or by a check before.
var checks = map[string]string{"found by the proxy": "", "found by a check": "worker_check 5s"}

// Of three workers one is down. Its client is not lost, nor what it has sent: it gets the
// next worker that is free, or comes free. When the worker is up it is served again.
func TestWorkerDownIsSkipped(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr, down := freeAddr(t), freeAddr(t)
			first, last := newService(t, nil), newService(t, nil)
			load(t, poolConfig(addr, check, first.addr, down, last.addr))
			leakCheck(t)
			var at [2]*net.TCPConn
			for i, svc := range []*service{first, last} {
				plainly(t, addr, number(i))
				at[i] = svc.gets(t, i)
			}
			for i := 2; i < 5; i++ {
				plainly(t, addr, number(i))
				inLine(t, "default", 2, 1)
				first.leave(at[0])
				at[0] = first.gets(t, i)
			}
			plainly(t, addr, number(5))
			inLine(t, "default", 2, 1)
			up := newServiceAt(t, down, nil)
			up.leave(up.gets(t, 5))
			first.leave(at[0])
			last.leave(at[1])
			inLine(t, "default", 0, 0)
			if check == "" {
				neverTwo(t, first, last, up)
			}
		})
	}
}

// holdTries lets the activate hooks of one slot wait, for those who try a worker that is
// down. The others go on.
func holdTries(slot int) (tries chan hook, letGo func()) {
	tries, letGo = holdHooks()
	hold := *called.Load()
	call := func(m tcplock.Moment) error {
		if m.Slot != slot {
			return nil
		}
		return hold(m)
	}
	called.Store(&call)
	return tries, letGo
}

// While a client finds out that its worker is down others come. When it has, it stands
// before them, and the next worker that comes free is its own.
func TestWorkerDownKeepsPlace(t *testing.T) {
	tries, letGo := holdTries(2)
	defer letGo()
	svc, addr := newService(t, nil), freeAddr(t)
	load(t, poolConfig(addr, "on activate test_call", svc.addr, freeAddr(t)))
	leakCheck(t)
	p := &pool{addr: addr}
	p.come(t, 0, 3, 2)
	at := svc.gets(t, 0)
	for range 4 { // then it is left out for long enough
		close(nextCall(t, tries, "activate", 2).goOn)
	}
	inLine(t, "default", 1, 3)
	for i := 1; i < 4; i++ {
		svc.leave(at)
		at = svc.gets(t, i)
	}
	svc.leave(at)
	inLine(t, "default", 0, 0)
	neverTwo(t, svc)
}

// Nobody is at the worker. The line stands, those who leave it leave it, and when the
// worker comes up it serves all the others, in order, with what they have sent.
func TestAllWorkersDown(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr, down := freeAddr(t), freeAddr(t)
			load(t, poolConfig(addr, check+"\nhalf_closed drop", down))
			leakCheck(t)
			var clients []net.Conn
			for i := range 6 {
				clients = append(clients, plainly(t, addr, number(i)))
				inLine(t, "default", 0, i+1)
			}
			for i, left := range []int{0, 3, 5} { // the head of the line, its middle, its end
				clients[left].Close()
				inLine(t, "default", 0, 5-i)
			}
			up := newServiceAt(t, down, nil)
			for _, i := range []int{1, 2, 4} {
				up.leave(up.gets(t, i))
				expectEOF(t, clients[i])
			}
			inLine(t, "default", 0, 0)
		})
	}
}

// Nobody is at any of the workers, over TCP and over unix sockets. The one that comes up
// serves all. (Not in order: each of the first three has been at another worker.)
func TestOneOfManyComesUp(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr, down := freeAddr(t), freeAddr(t)
			load(t, poolConfig(addr, check, "unix/"+filepath.Join(t.TempDir(), "nobody"), down, freeAddr(t)))
			leakCheck(t)
			var clients []net.Conn
			for i := range 5 {
				clients = append(clients, plainly(t, addr, number(i)))
				inLine(t, "default", 0, i+1)
			}
			up := newServiceAt(t, down, func(conn *net.TCPConn) { _, _ = io.CopyN(conn, conn, 3) })
			for i, client := range clients {
				expect(t, client, number(i))
				expectEOF(t, client)
			}
			inLine(t, "default", 0, 0)
			if check == "" {
				neverTwo(t, up)
			}
		})
	}
}

// All workers are down for longer than the clients may wait. Each is refused when its time
// in line is over, whatever has been tried meanwhile, and is told so.
func TestWaitTimeoutWhileWorkersAreDown(t *testing.T) {
	const wait = 1700 * time.Millisecond
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			addr := freeAddr(t)
			load(t, poolConfig(addr, fmt.Sprintf("%s\nwait_timeout %s\nrefuse {\ntest_tell_reason\n}", check, wait), freeAddr(t), freeAddr(t)))
			leakCheck(t)
			start := time.Now()
			clients := []net.Conn{dial(t, addr), dial(t, addr), dial(t, addr)}
			for _, client := range clients {
				expect(t, client, "wait_timeout")
				if took := time.Since(start); took < wait || took > 2*wait {
					t.Errorf("refused after %s, expected %s", took, wait)
				}
				expectEOF(t, client)
			}
			inLine(t, "default", 0, 0)
		})
	}
}

// The only worker is down. It is left out for half a second, then for twice as long each
// time, and then tried with one client: the first in line. When that has got through, all
// begins anew.
func TestWorkerLeftOutTwiceAsLong(t *testing.T) {
	type try struct {
		who string
		at  time.Time // by the hook's clock: this test may be slow to hear of it
	}
	tries := make(chan try, 100)
	call := func(m tcplock.Moment) error {
		tries <- try{m.Client, time.Now()}
		return nil
	}
	called.Store(&call)
	addr, down := freeAddr(t), freeAddr(t)
	load(t, poolConfig(addr, "on activate test_call", down))
	leakCheck(t)
	client := plainly(t, addr, number(0))
	tried := func() (at time.Time) {
		t.Helper()
		select {
		case try := <-tries:
			if try.who != client.LocalAddr().String() {
				t.Errorf("%s was tried, expected %s, the first in line", try.who, client.LocalAddr())
			}
			return try.at
		case <-time.After(patience):
			t.Fatal("nobody was tried")
			return time.Time{}
		}
	}
	last := tried()
	plainly(t, addr, number(1))
	for _, want := range []time.Duration{500 * time.Millisecond, time.Second} {
		at := tried()
		if gap := at.Sub(last); gap < want || gap > patience/4 {
			t.Errorf("tried again after %s, expected %s", gap, want)
		}
		last = at
	}
	t.Run("up for a while", func(t *testing.T) {
		up := newServiceAt(t, down, nil)
		up.leave(up.gets(t, 0))
		up.leave(up.gets(t, 1))
		inLine(t, "default", 0, 0)
	})
	for len(tries) > 0 {
		<-tries
	}
	client = dial(t, addr)
	last = tried()
	if gap := tried().Sub(last); gap > 1900*time.Millisecond { // it would be 2s
		t.Errorf("tried again after %s, expected 500ms", gap)
	}
	client.Close()
}

// The check comes before the hooks: of a worker that is down they hear nothing, and at one
// that is up there is first a connection without a word.
func TestWorkerCheckComesFirst(t *testing.T) {
	hooks, letGo := holdHooks()
	defer letGo()
	svc, addr := newService(t, nil), freeAddr(t)
	load(t, poolConfig(addr, "worker_check\non activate test_call", freeAddr(t), svc.addr))
	leakCheck(t)
	plainly(t, addr, number(0))
	h := nextCall(t, hooks, "activate", 2)
	conn := svc.next(t)
	expectClosed(t, conn)
	svc.leave(conn)
	svc.nobody(t, "the hook has not ended")
	close(h.goOn)
	svc.leave(svc.gets(t, 0))
	inLine(t, "default", 0, 0)
	neverTwo(t, svc)
}

// A worker that takes the connection and resets it is not down: it has got its client.
// Nobody else gets that client, and the worker gets the next one at once.
func TestWorkerThatBreaksIsNotDown(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, 1, check)
			clients := p.come(t, 0, 3, 1)
			for i := range 4 {
				conn := p.workers[0].gets(t, i)
				_ = conn.SetLinger(0)
				p.workers[0].leave(conn)
				expectClosed(t, clients[i])
			}
			inLine(t, "default", 0, 0)
			if _, _, total := p.workers[0].counts(); check == "" && total != 4 {
				t.Errorf("the worker had %d connections, expected 4", total)
			}
		})
	}
}

// What stands between the lock and the proxy looks at what the client has sent, and then
// the worker is down. The worker that gets the client next gets all of it.
func TestWorkerDownBehindMatcher(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	load(t, global(fmt.Sprintf("layer4 {\n%s {\nroute {\n%s\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\nproxy {l4.tcplock.worker}\n}\n}\n}\n}\n}",
		addr, poolLock("", freeAddr(t), svc.addr))))
	leakCheck(t)
	client := plainly(t, addr, number(7)+"more")
	conn := svc.gets(t, 7)
	expect(t, conn, "more")
	send(t, client, "still here?")
	expect(t, conn, "still here?")
	svc.leave(conn)
	expectEOF(t, client)
}

// Who is refused may come to the same lock again, as a last chance: it is not its second
// slot, since it has none. It is at the end of the line then.
func TestRefusedJoinsSameLock(t *testing.T) {
	hooks, letGo := holdHooks()
	defer letGo()
	svc, again := newService(t, nil), newService(t, nil)
	addr := freeAddr(t)
	lock := "tcplock {\nname same\nlinger 0\nwait_timeout 5s\non refuse test_call\nrefuse {\ntcplock {\nname same\n}\nproxy %s\n}\n}"
	load(t, lockConfig(addr, fmt.Sprintf(lock, again.addr), svc.addr))
	leakCheck(t)
	plainly(t, addr, number(0))
	conn := svc.gets(t, 0)
	plainly(t, addr, number(1))
	inLine(t, "same", 1, 1)
	nextCall(t, hooks, "refuse", 0)
	inLine(t, "same", 1, 1)
	svc.leave(conn)
	again.leave(again.gets(t, 1))
	inLine(t, "same", 0, 0)
}

// The log says which worker is left out, and for how long.
func TestWorkerDownIsLogged(t *testing.T) {
	addr, down := freeAddr(t), freeAddr(t)
	svc := newService(t, nil)
	option, logged := logFile(t)
	option = strings.Replace(option, "ERROR", "WARN", 1)
	load(t, strings.Replace(poolConfig(addr, "", down, svc.addr), "layer4 {", option+"\nlayer4 {", 1))
	plainly(t, addr, number(0))
	svc.leave(svc.gets(t, 0))
	logged(t, "worker cannot be reached, left out")
	logged(t, fmt.Sprintf(`"worker":"%s","for":0.5`, down))
}

// What stands between the lock and the proxy has read what the client has sent first, a
// PROXY header, and then the worker is down. That is gone, so the client cannot go to
// another worker as if nothing had been: it gets its end at once. The worker is left out.
func TestWorkerDownWhenClientHasBeenRead(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	load(t, lockConfig(addr, poolLock("", freeAddr(t), svc.addr)+"\n"+allowProxy, "{l4.tcplock.worker}"))
	leakCheck(t)
	expectClosed(t, plainly(t, addr, proxyHeader+number(0)))
	conn := plainly(t, addr, proxyHeader+number(1)).(*net.TCPConn)
	at := svc.gets(t, 1)
	svc.leave(at)
	conn.Close()
	inLine(t, "default", 0, 0)
}
