package tcplock_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// While the activate hook runs the service sees nothing of the client, although that has
// sent its request; when the hook is done the service gets all of it. The second hook
// runs after the first, and so do its steps.
func TestActivateHookComesBeforeService(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "on activate {\nemit first\nemit second\n}\non activate emit third", svc.addr)
	leakCheck(t)
	send(t, dial(t, addr), "request")
	for _, name := range []string{"first", "second", "third"} {
		hook := caughtHook(t, name+" activate default 1 1", "moment", "name", "slot", "connection")
		noHook(t, "the one before has not ended")
		svc.nobody(t, "the hook has not ended")
		hook.done()
	}
	conn := svc.next(t)
	expect(t, conn, "request")
	svc.leave(conn)
	inLine(t, "default", 0, 0)
}

// The hook is for every third. It fails for the first connection, and for the next one,
// for which it is due again: both are refused, and told so, the service sees nothing of
// them, and the release hook runs for them. The line behind them goes on: the third is
// served with the hook. The two that were refused do not count, so the hook is due again
// for the sixth.
func TestFailedActivateHookRefusesItsConnection(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "on activate {\nevery 3\nemit restart\n}\non release emit clean", svc.addr)
	leakCheck(t)
	var clients []*net.TCPConn
	for i := range 6 {
		clients = append(clients, dial(t, addr))
		send(t, clients[i], number(i))
		inLine(t, "default", 1, i)
	}
	for i := range 2 {
		caughtHook(t, fmt.Sprint("restart ", i+1), "connection").fail()
		expect(t, clients[i], "hook_failed")
		expectClosed(t, clients[i])
		caughtHook(t, fmt.Sprintf("clean %d hook_failed", i+1), "connection", "reason").done()
	}
	caughtHook(t, "restart 3", "connection").done()
	serve := func(i int) {
		t.Helper()
		conn := svc.next(t)
		expect(t, conn, number(i))
		svc.leave(conn)
		expectEOF(t, clients[i])
		caughtHook(t, fmt.Sprintf("clean %d served", i+1), "connection", "reason").done()
	}
	serve(2)
	serve(3)
	serve(4)
	caughtHook(t, "restart 6", "connection").done()
	serve(5)
	inLine(t, "default", 0, 0)
	if _, _, total := svc.counts(); total != 4 {
		t.Errorf("%d connections reached the service, expected 4", total)
	}
}

// An optional hook fails: its connection is served, and it is due again for the next one
// only.
func TestOptionalHookFails(t *testing.T) {
	svc := newService(t, echo)
	addr := hookServer(t, 1, "on activate {\nevery 10\noptional\nemit restart\n}", svc.addr)
	leakCheck(t)
	var clients sync.WaitGroup
	clients.Go(func() {
		for range 3 {
			expectServed(t, addr)
		}
	})
	caughtHook(t, "restart 1", "connection").fail()
	caughtHook(t, "restart 2", "connection").done()
	clients.Wait()
}

// The holder has gone, and the release hook runs: its slot is not handed on before the
// hook is done, whether it fails or not.
func TestReleaseHookComesBeforeNextActivation(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "on release emit clean\non activate emit start", svc.addr)
	leakCheck(t)
	for i := range 3 {
		send(t, dial(t, addr), number(i))
		inLine(t, "default", 1, i)
	}
	for i := range 3 {
		caughtHook(t, fmt.Sprint("start ", i+1), "connection").done()
		conn := svc.next(t)
		expect(t, conn, number(i))
		svc.leave(conn)
		clean := caughtHook(t, fmt.Sprintf("clean %d served", i+1), "connection", "reason")
		noHook(t, "the release hook has not ended")
		inLine(t, "default", 1, 2-i)
		if i == 1 {
			clean.fail()
		} else {
			clean.done()
		}
	}
	inLine(t, "default", 0, 0)
}

// hold_timeout is over, and the service is wedged. The client is cut, the timeout hook
// and then the release hook run with the slot still held, and only then the next client
// is activated.
func TestTimeoutHookComesBeforeNextActivation(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "hold_timeout 1s\non timeout emit restart\non release emit clean\non activate emit start", svc.addr)
	leakCheck(t)
	client := dial(t, addr)
	caughtHook(t, "start 1", "connection").done()
	wedged := svc.next(t)
	send(t, dial(t, addr), "next")
	inLine(t, "default", 1, 1)
	for _, name := range []string{"restart", "clean"} {
		hook := caughtHook(t, name+" 1 1 hold_timeout", "connection", "slot", "reason")
		expectClosed(t, client)
		noHook(t, "the hook has not ended")
		inLine(t, "default", 1, 1)
		hook.done()
	}
	svc.leave(wedged)
	caughtHook(t, "start 2", "connection").done()
	conn := svc.next(t)
	expect(t, conn, "next")
	svc.leave(conn)
	caughtHook(t, "clean 2 served", "connection", "reason").done()
	inLine(t, "default", 0, 0)
}

// Clients are refused while the refuse hook runs for the first of them. None waits for
// it, and it does not run a second time meanwhile; when it is done, the next one that is
// refused makes it run again.
func TestRefuseHookKeepsNobodyWaiting(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "max_waiting 0\non refuse emit busy", svc.addr)
	leakCheck(t)
	send(t, dial(t, addr), "holder")
	holder := svc.next(t)
	refused := func() {
		t.Helper()
		conn := dial(t, addr)
		expect(t, conn, "refused_full")
		expectClosed(t, conn)
	}
	refused()
	first := caughtHook(t, "busy refuse 0 2 refused_full", "moment", "slot", "connection", "reason")
	for range 5 {
		refused()
	}
	noHook(t, "it still runs")
	first.done()
	eventually(t, "the hook runs again", func() bool {
		refused()
		select {
		case again := <-catching:
			again.done()
			return true
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})
	expect(t, holder, "holder")
	svc.leave(holder)
	inLine(t, "default", 0, 0)
}

// Nobody is there for a while: the idle hook runs. A client that comes meanwhile waits
// for its end, and is served. While it is there, however long, the hook does not run; when
// it has gone it runs once more, and only once.
func TestIdleHookRunsBetweenClients(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "on idle 500ms emit restart", svc.addr)
	leakCheck(t)
	idle := caughtHook(t, "restart idle 0 0 ", "moment", "slot", "connection", "client")
	send(t, dial(t, addr), "hello")
	inLine(t, "default", 0, 1)
	svc.nobody(t, "the idle hook has not ended")
	idle.done()
	conn := svc.next(t)
	expect(t, conn, "hello")
	noHookFor(t, time.Second, "a client is there")
	gone := time.Now()
	svc.leave(conn)
	idle = caughtHook(t, "restart")
	if took := time.Since(gone); took < 450*time.Millisecond {
		t.Errorf("found the idle hook after %v, expected 500ms", took)
	}
	idle.done()
	noHookFor(t, time.Second, "it has run in this pause")
	inLine(t, "default", 0, 0)
}

// Sixty clients rush through three slots, and every tenth needs the service for itself:
// while that hook runs the service has no connection, and gets none. Everybody is served.
func TestExclusiveHookIsAlone(t *testing.T) {
	const clients, every = 60, 10
	svc := newService(t, echo)
	addr := hookServer(t, 3, fmt.Sprintf("on activate {\nevery %d\nexclusive\nemit restart\n}", every), svc.addr)
	leakCheck(t)
	var rush sync.WaitGroup
	for range clients {
		rush.Go(func() { expectServed(t, addr) })
	}
	for range clients / every {
		hook := nextHook(t)
		_, _, before := svc.counts()
		noHook(t, "the hook has not ended")
		if now, _, total := svc.counts(); now != 0 || total != before {
			t.Errorf("the service has %d connections, and got %d while the hook ran, expected none", now, total-before)
		}
		hook.done()
	}
	rush.Wait()
	inLine(t, "default", 0, 0)
	if _, most, total := svc.counts(); most > 3 || total != clients {
		t.Errorf("the service had %d connections at most and %d in all, expected at most 3 and %d", most, total, clients)
	}
}

// The hooks of two slots overlap in time, and those of one slot never do.
func TestHooksOfTwoSlotsOverlap(t *testing.T) {
	svc := newService(t, echo)
	addr := hookServer(t, 2, "on activate emit start\non release emit clean", svc.addr)
	leakCheck(t)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() { expectServed(t, addr) })
	}
	for range 20 {
		var hooks []*caught
		for range 2 {
			hooks = append(hooks, nextHook(t))
		}
		if hooks[0].data["slot"] == hooks[1].data["slot"] {
			t.Errorf("caught two hooks of slot %s at once, expected one of each slot", hooks[0].data["slot"])
		}
		hooks[0].done()
		hooks[1].done()
	}
	clients.Wait()
}

// A hook restarts a service behind a forwarder, which accepts all the time, and closes at
// once while the service is not there. The client is held until it is.
func TestWaitBehindForwarder(t *testing.T) {
	t.Cleanup(tcplock.SetListenFor(patience))
	var there atomic.Bool
	tried := make(chan struct{}, 100)
	forwarder := newService(t, func(conn *net.TCPConn) {
		if there.Load() {
			_, _ = io.WriteString(conn, "hello")
			return
		}
		tried <- struct{}{}
	})
	client := dial(t, lockServer(t, fmt.Sprintf("tcplock {\non activate wait %s\n}", forwarder.addr), forwarder.addr))
	for range 3 {
		<-tried
	}
	there.Store(true)
	expect(t, client, "hello")
	expectEOF(t, client)
}
