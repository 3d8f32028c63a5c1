package tcplock_test

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.BothWays(m) }

// A connection's way: it joins the line, waits, is activated, is served, and ends.
func TestOneConnection(t *testing.T) {
	hooks, letGo := caddytest.HoldHooks()
	defer letGo()
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock 1 {\nlinger 0\non activate test_call\n}", svc.Addr)
	state := func() string {
		lock := caddytest.Status(t, "default")
		for _, c := range append(lock.Holders, lock.Waiters...) {
			if c.ID == 2 { // the first connection has the slot
				return c.State
			}
		}
		return ""
	}
	first := caddytest.Dial(t, addr)
	close(caddytest.NextCall(t, hooks, "activate", 1).GoOn)
	atService := svc.Next(t)

	// Join, and wait.
	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "question")
	caddytest.InLine(t, "default", 1, 1)
	if found := state(); found != "waiting" {
		t.Errorf("found it %q in line, expected waiting", found)
	}
	svc.NoneComes(t, "the first one has the slot")

	// Activate: the slot is the connection's own, and its hooks come before the service.
	svc.Leave(atService)
	first.Close()
	hook := caddytest.NextCall(t, hooks, "activate", 1)
	if found := state(); found != "activating" {
		t.Errorf("found it %q while its hook runs, expected activating", found)
	}
	svc.NoneComes(t, "the hook has not ended")
	close(hook.GoOn)

	// Serve.
	atService = svc.Next(t)
	caddytest.Expect(t, atService, "question")
	caddytest.Send(t, atService, "answer")
	caddytest.Expect(t, client, "answer")
	if found := state(); found != "connected" {
		t.Errorf("found it %q at the service, expected connected", found)
	}

	// End: the client learns of it, and the slot is free.
	svc.Leave(atService)
	caddytest.ExpectEOF(t, client)
	caddytest.InLine(t, "default", 0, 0)
	if found := caddytest.Status(t, "default").Connections["served"]; found != 2 {
		t.Errorf("found %d connections served, expected 2", found)
	}
}

// Forty clients come at once to three slots. The service never has more than three connections,
// and every client is served.
func TestNeverMoreThanSlots(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.LockServer(t, "tcplock 3", svc.Addr)
	var clients sync.WaitGroup
	for i := range 40 {
		clients.Go(func() {
			conn := caddytest.Dial(t, addr)
			msg := fmt.Sprint("message ", i)
			caddytest.Send(t, conn, msg)
			caddytest.Expect(t, conn, msg)
			_ = conn.CloseWrite()
			caddytest.ExpectEOF(t, conn)
		})
	}
	clients.Wait()
	if _, most, total := svc.Counts(); most > 3 || total != 40 {
		t.Errorf("the service had %d connections at most and %d in all, expected at most 3 and 40", most, total)
	}
}

// Fifty clients join one after the other and are served in that order, through one slot and
// through three. At each of the first fifty hand-offs a new client comes just while the slot
// changes hands. It goes to the end of the line.
func TestFirstComeFirstServed(t *testing.T) {
	for _, slots := range []int{1, 3} {
		t.Run(fmt.Sprint(slots, " slots"), func(t *testing.T) { firstComeFirstServed(t, slots) })
	}
}

func firstComeFirstServed(t *testing.T, slots int) {
	const clients, newcomers = 50, 50
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), svc.Addr)
	join := func(i int) { caddytest.Send(t, caddytest.Dial(t, addr), caddytest.Number(i)) }
	var holders []*net.TCPConn
	served := func(i int) {
		t.Helper()
		holders = append(holders, svc.Next(t))
		caddytest.Expect(t, holders[i], caddytest.Number(i))
	}
	for i := range clients {
		join(i)
		if i < slots {
			served(i)
		}
		caddytest.InLine(t, "default", min(i+1, slots), max(0, i+1-slots))
	}
	for i := range clients + newcomers - slots {
		var newcomer sync.WaitGroup
		if i < newcomers {
			newcomer.Go(func() { join(clients + i) })
		}
		svc.Leave(holders[i])
		served(i + slots)
		newcomer.Wait()
		came := clients + min(i+1, newcomers)
		caddytest.InLine(t, "default", slots, came-(i+1)-slots)
	}
}

// Three clients stand in line for a service that never closes. hold_timeout cuts each of them,
// and each gets the whole hold_timeout, although the last one waited twice as long.
func TestTimeInLineIsNotTimeWithSlot(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nhold_timeout 2s\n}", svc.Addr)
	for i := range 3 {
		caddytest.Send(t, caddytest.Dial(t, addr), caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	for i := range 3 {
		caddytest.ExpectHolds(t, svc, i, 2*time.Second)
	}
}

// The activate hook takes longer than wait_timeout and hold_timeout. Its time counts for
// neither. The client that is served at once and the client that has stood in line both get to
// the service, and both get the whole of their hold_timeout.
func TestHookTimeCountsForNoLimit(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nwait_timeout 4s\nhold_timeout 1s\non activate exec sleep 4.2\n}", svc.Addr)
	caddytest.Send(t, caddytest.Dial(t, addr), caddytest.Number(0))
	first := svc.Next(t)
	caddytest.Expect(t, first, caddytest.Number(0))
	second := caddytest.Dial(t, addr)
	caddytest.Send(t, second, caddytest.Number(1))
	caddytest.InLine(t, "default", 1, 1)
	caddytest.ExpectHolds(t, svc, 1, time.Second)
}

// Behind a client that holds the slot for long, two clients are refused one after the other,
// each after the whole of its own wait_timeout.
func TestWaitTimeoutIsEachClientsOwn(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const wait = 500 * time.Millisecond
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nwait_timeout %s\n}", wait), svc.Addr)
	holder := caddytest.Dial(t, addr)
	served := svc.Next(t)
	for range 2 {
		start := time.Now()
		caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
		if took := time.Since(start); took < wait {
			t.Errorf("refused after %v, expected not before %v", took, wait)
		}
		caddytest.InLine(t, "default", 1, 0)
	}
	caddytest.Send(t, holder, "still here")
	caddytest.Expect(t, served, "still here")
	svc.NoneComes(t, "both have been refused")
}

// Of five waiters, only the one in the middle came while the config had a wait_timeout. It is
// refused where it stands when that is over. The others keep their order.
func TestWaitTimeoutInTheMiddleOfTheLine(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const wait = 2 * time.Second
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	patient := caddytest.LockConfig(addr, "tcplock {\nlinger 0\n}", svc.Addr)
	impatient := caddytest.LockConfig(addr, fmt.Sprintf("tcplock {\nlinger 0\nwait_timeout %s\n}", wait), svc.Addr)
	caddytest.Load(t, patient)
	var clients []*net.TCPConn
	join := func() {
		i := len(clients)
		clients = append(clients, caddytest.Dial(t, addr))
		caddytest.Send(t, clients[i], caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	join()
	holder := svc.Next(t)
	join()
	join()
	caddytest.Load(t, impatient)
	start := time.Now()
	join()
	caddytest.Load(t, patient)
	join()
	join()
	caddytest.ExpectClosed(t, clients[3])
	if took := time.Since(start); took < wait {
		t.Errorf("refused after %v, expected not before %v", took, wait)
	}
	caddytest.InLine(t, "default", 1, 4)
	for _, i := range []int{1, 2, 4, 5} {
		svc.Leave(holder)
		holder = svc.Next(t)
		caddytest.Expect(t, holder, caddytest.Number(i))
	}
}
