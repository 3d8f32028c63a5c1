package hooks_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// While the activate hook runs, the service sees nothing of the client, although the client has
// sent its request. When the hook is done, the service gets all of it. The second hook runs
// after the first, and so do its steps.
func TestActivateHookComesBeforeService(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "on activate {\nemit first\nemit second\n}\non activate emit third", svc.Addr)
	caddytest.LeakCheck(t)
	caddytest.Send(t, caddytest.Dial(t, addr), "request")
	for _, name := range []string{"first", "second", "third"} {
		hook := caughtHook(t, name+" activate default 1 1", "moment", "name", "slot", "connection")
		noHook(t, "the one before has not ended")
		svc.NoneComes(t, "the hook has not ended")
		hook.Done()
	}
	conn := svc.Next(t)
	caddytest.Expect(t, conn, "request")
	svc.Leave(conn)
	caddytest.InLine(t, "default", 0, 0)
}

// The hook is for every third connection. It fails for the first, and for the next, for which
// it is due again. Both are refused with the reason, the service sees nothing of them, and the
// release hook runs for them. The line goes on: the third is served with the hook. The two
// refused connections do not count, so the hook is due again for the sixth.
func TestFailedActivateHookRefusesItsConnection(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "on activate {\nevery 3\nemit restart\n}\non release emit clean", svc.Addr)
	caddytest.LeakCheck(t)
	var clients []*net.TCPConn
	for i := range 6 {
		clients = append(clients, caddytest.Dial(t, addr))
		caddytest.Send(t, clients[i], caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	for i := range 2 {
		caughtHook(t, fmt.Sprint("restart ", i+1), "connection").Fail()
		caddytest.Expect(t, clients[i], "hook_failed")
		caddytest.ExpectClosed(t, clients[i])
		caughtHook(t, fmt.Sprintf("clean %d hook_failed", i+1), "connection", "reason").Done()
	}
	caughtHook(t, "restart 3", "connection").Done()
	serve := func(i int) {
		t.Helper()
		conn := svc.Next(t)
		caddytest.Expect(t, conn, caddytest.Number(i))
		svc.Leave(conn)
		caddytest.ExpectEOF(t, clients[i])
		caughtHook(t, fmt.Sprintf("clean %d served", i+1), "connection", "reason").Done()
	}
	serve(2)
	serve(3)
	serve(4)
	caughtHook(t, "restart 6", "connection").Done()
	serve(5)
	caddytest.InLine(t, "default", 0, 0)
	if _, _, total := svc.Counts(); total != 4 {
		t.Errorf("%d connections reached the service, expected 4", total)
	}
}

// An optional hook fails: its connection is served, and it is due again for the next one
// only.
func TestOptionalHookFails(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := hookServer(t, 1, "on activate {\nevery 10\noptional\nemit restart\n}", svc.Addr)
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	clients.Go(func() {
		for range 3 {
			caddytest.ExpectServed(t, addr)
		}
	})
	caughtHook(t, "restart 1", "connection").Fail()
	caughtHook(t, "restart 2", "connection").Done()
	clients.Wait()
}

// The holder has gone, and the release hook runs. The slot is not handed on before the hook is
// done, whether it fails or not.
func TestReleaseHookComesBeforeNextActivation(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "on release emit clean\non activate emit start", svc.Addr)
	caddytest.LeakCheck(t)
	for i := range 3 {
		caddytest.Send(t, caddytest.Dial(t, addr), caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	for i := range 3 {
		caughtHook(t, fmt.Sprint("start ", i+1), "connection").Done()
		conn := svc.Next(t)
		caddytest.Expect(t, conn, caddytest.Number(i))
		svc.Leave(conn)
		clean := caughtHook(t, fmt.Sprintf("clean %d served", i+1), "connection", "reason")
		noHook(t, "the release hook has not ended")
		caddytest.InLine(t, "default", 1, 2-i)
		if i == 1 {
			clean.Fail()
		} else {
			clean.Done()
		}
	}
	caddytest.InLine(t, "default", 0, 0)
}

// hold_timeout is over, and the service hangs. The client is cut. The timeout hook and then the
// release hook run while the slot is still held, and only then the next client is activated.
func TestTimeoutHookComesBeforeNextActivation(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "hold_timeout 1s\non timeout emit restart\non release emit clean\non activate emit start", svc.Addr)
	caddytest.LeakCheck(t)
	client := caddytest.Dial(t, addr)
	caughtHook(t, "start 1", "connection").Done()
	wedged := svc.Next(t)
	caddytest.Send(t, caddytest.Dial(t, addr), "next")
	caddytest.InLine(t, "default", 1, 1)
	for _, name := range []string{"restart", "clean"} {
		hook := caughtHook(t, name+" 1 1 hold_timeout", "connection", "slot", "reason")
		caddytest.ExpectClosed(t, client)
		noHook(t, "the hook has not ended")
		caddytest.InLine(t, "default", 1, 1)
		hook.Done()
	}
	svc.Leave(wedged)
	caughtHook(t, "start 2", "connection").Done()
	conn := svc.Next(t)
	caddytest.Expect(t, conn, "next")
	svc.Leave(conn)
	caughtHook(t, "clean 2 served", "connection", "reason").Done()
	caddytest.InLine(t, "default", 0, 0)
}

// Clients are refused while the refuse hook runs for the first of them. None waits for the
// hook, and it does not run a second time meanwhile. When it is done, the next refused client
// makes it run again.
func TestRefuseHookDelaysNoClient(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "max_waiting 0\non refuse emit busy", svc.Addr)
	caddytest.LeakCheck(t)
	caddytest.Send(t, caddytest.Dial(t, addr), "holder")
	holder := svc.Next(t)
	refused := func() {
		t.Helper()
		conn := caddytest.Dial(t, addr)
		caddytest.Expect(t, conn, "refused_full")
		caddytest.ExpectClosed(t, conn)
	}
	refused()
	first := caughtHook(t, "busy refuse 0 2 refused_full", "moment", "slot", "connection", "reason")
	for range 5 {
		refused()
	}
	noHook(t, "it still runs")
	first.Done()
	caddytest.Eventually(t, "the hook runs again", func() bool {
		refused()
		select {
		case again := <-caddytest.Catching:
			again.Done()
			return true
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})
	caddytest.Expect(t, holder, "holder")
	svc.Leave(holder)
	caddytest.InLine(t, "default", 0, 0)
}

// The lock is empty for a while: the idle hook runs. A client that comes meanwhile waits until
// the hook has ended, and is served. While it holds its slot, however long, the hook does not
// run. When it has gone, the hook runs once more, and only once.
func TestIdleHookRunsBetweenClients(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "on idle 500ms emit restart", svc.Addr)
	caddytest.LeakCheck(t)
	idle := caughtHook(t, "restart idle 0 0 ", "moment", "slot", "connection", "client")
	caddytest.Send(t, caddytest.Dial(t, addr), "hello")
	caddytest.InLine(t, "default", 0, 1)
	svc.NoneComes(t, "the idle hook has not ended")
	idle.Done()
	conn := svc.Next(t)
	caddytest.Expect(t, conn, "hello")
	noHookFor(t, time.Second, "a client is there")
	gone := time.Now()
	svc.Leave(conn)
	idle = caughtHook(t, "restart")
	if took := time.Since(gone); took < 450*time.Millisecond {
		t.Errorf("found the idle hook after %v, expected 500ms", took)
	}
	idle.Done()
	noHookFor(t, time.Second, "it has run in this pause")
	caddytest.InLine(t, "default", 0, 0)
}

// Sixty clients rush through three slots, and every tenth needs an exclusive hook. While that
// hook runs, the service has no connection, and gets none. All clients are served.
func TestExclusiveHookIsAlone(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	const clients, every = 60, 10
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := hookServer(t, 3, fmt.Sprintf("on activate {\nevery %d\nexclusive\nemit restart\n}", every), svc.Addr)
	caddytest.LeakCheck(t)
	var rush sync.WaitGroup
	for range clients {
		rush.Go(func() { caddytest.ExpectServed(t, addr) })
	}
	for range clients / every {
		hook := caddytest.NextHook(t)
		_, _, before := svc.Counts()
		noHook(t, "the hook has not ended")
		if now, _, total := svc.Counts(); now != 0 || total != before {
			t.Errorf("the service has %d connections, and got %d while the hook ran, expected none", now, total-before)
		}
		hook.Done()
	}
	rush.Wait()
	caddytest.InLine(t, "default", 0, 0)
	if _, most, total := svc.Counts(); most > 3 || total != clients {
		t.Errorf("the service had %d connections at most and %d in all, expected at most 3 and %d", most, total, clients)
	}
}

// The hooks of two slots overlap in time, and those of one slot never do.
func TestHooksOfTwoSlotsOverlap(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := hookServer(t, 2, "on activate emit start\non release emit clean", svc.Addr)
	caddytest.LeakCheck(t)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() { caddytest.ExpectServed(t, addr) })
	}
	for range 20 {
		var hooks []*caddytest.Caught
		for range 2 {
			hooks = append(hooks, caddytest.NextHook(t))
		}
		if hooks[0].Data["slot"] == hooks[1].Data["slot"] {
			t.Errorf("caught two hooks of slot %s at once, expected one of each slot", hooks[0].Data["slot"])
		}
		hooks[0].Done()
		hooks[1].Done()
	}
	clients.Wait()
}

// A hook restarts a service behind a forwarder. The forwarder always accepts, and closes at
// once while the service is down. The client is held until the service is up.
func TestWaitBehindForwarder(t *testing.T) {
	t.Cleanup(caddytest.SetListenFor(caddytest.Patience))
	var there atomic.Bool
	tried := make(chan struct{}, 100)
	forwarder := caddytest.NewService(t, func(conn *net.TCPConn) {
		if there.Load() {
			_, _ = io.WriteString(conn, "hello")
			return
		}
		tried <- struct{}{}
	})
	client := caddytest.Dial(t, caddytest.LockServer(t, fmt.Sprintf("tcplock {\non activate wait %s\n}", forwarder.Addr), forwarder.Addr))
	for range 3 {
		<-tried
	}
	there.Store(true)
	caddytest.Expect(t, client, "hello")
	caddytest.ExpectEOF(t, client)
}
