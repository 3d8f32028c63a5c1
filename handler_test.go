package tcplock_test

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// Forty clients at once, three slots: the service never has more than three, and every
// client is served.
func TestNeverMoreThanSlots(t *testing.T) {
	svc := newService(t, echo)
	addr := lockServer(t, "tcplock 3", svc.addr)
	var clients sync.WaitGroup
	for i := range 40 {
		clients.Go(func() {
			conn := dial(t, addr)
			msg := fmt.Sprint("message ", i)
			send(t, conn, msg)
			expect(t, conn, msg)
			_ = conn.CloseWrite()
			expectEOF(t, conn)
		})
	}
	clients.Wait()
	if _, most, total := svc.counts(); most > 3 || total != 40 {
		t.Errorf("the service had %d connections at most and %d in all, expected at most 3 and 40", most, total)
	}
}

// Fifty clients join one after the other and are served in that order, through one slot
// and through three. At each of the first fifty hand-offs a newcomer arrives just while
// the slot changes hands: it goes to the end of the line.
func TestFirstComeFirstServed(t *testing.T) {
	for _, slots := range []int{1, 3} {
		t.Run(fmt.Sprint(slots, " slots"), func(t *testing.T) { firstComeFirstServed(t, slots) })
	}
}

func firstComeFirstServed(t *testing.T, slots int) {
	const clients, newcomers = 50, 50
	svc := newService(t, nil)
	addr := lockServer(t, fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), svc.addr)
	join := func(i int) { send(t, dial(t, addr), number(i)) }
	var holders []*net.TCPConn
	served := func(i int) {
		t.Helper()
		holders = append(holders, svc.next(t))
		expect(t, holders[i], number(i))
	}
	for i := range clients {
		join(i)
		if i < slots {
			served(i)
		}
		inLine(t, "default", min(i+1, slots), max(0, i+1-slots))
	}
	for i := range clients + newcomers - slots {
		var newcomer sync.WaitGroup
		if i < newcomers {
			newcomer.Go(func() { join(clients + i) })
		}
		svc.leave(holders[i])
		served(i + slots)
		newcomer.Wait()
		came := clients + min(i+1, newcomers)
		inLine(t, "default", slots, came-(i+1)-slots)
	}
}

// number is how a client tells the service who it is.
func number(i int) string { return fmt.Sprintf("%03d", i) }

// Three clients stand in line for a service that never closes. Each is cut by
// hold_timeout, and each gets all of it: the last one's time in line was twice as long.
func TestTimeInLineIsNotTimeWithSlot(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, "tcplock {\nhold_timeout 2s\n}", svc.addr)
	for i := range 3 {
		send(t, dial(t, addr), number(i))
		inLine(t, "default", 1, i)
	}
	for i := range 3 {
		expectHolds(t, svc, i, 2*time.Second)
	}
}

// The activate hook takes longer than wait_timeout and hold_timeout. Neither is over for
// that: the client that is served at once and the client that has stood in line before
// both get to the service, and both get the whole of their hold_timeout.
func TestHookTimeIsNobodysTime(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, "tcplock {\nwait_timeout 4s\nhold_timeout 1s\non activate exec sleep 4.2\n}", svc.addr)
	send(t, dial(t, addr), number(0))
	first := svc.next(t)
	expect(t, first, number(0))
	second := dial(t, addr)
	send(t, second, number(1))
	inLine(t, "default", 1, 1)
	expectHolds(t, svc, 1, time.Second)
}

// expectHolds makes sure that client i is the next to reach the service, and stays there
// for about as long as it may hold its slot. (How long exactly is not to be seen from
// here: its time has begun a little before the service accepts it. What another budget
// had eaten of it would be all of it.)
func expectHolds(t *testing.T, svc *service, i int, hold time.Duration) {
	t.Helper()
	conn := svc.next(t)
	start := time.Now()
	expect(t, conn, number(i))
	expectEOF(t, conn)
	if took := time.Since(start); took < hold/2 {
		t.Errorf("client %d was cut after %v, expected about %v", i, took, hold)
	}
}

// Behind a client that holds the slot for long, two clients are refused one after the
// other, each after the whole of its own wait_timeout.
func TestWaitTimeoutIsEachClientsOwn(t *testing.T) {
	const wait = 500 * time.Millisecond
	svc := newService(t, nil)
	addr := lockServer(t, fmt.Sprintf("tcplock {\nwait_timeout %s\n}", wait), svc.addr)
	holder := dial(t, addr)
	served := svc.next(t)
	for range 2 {
		start := time.Now()
		expectClosed(t, dial(t, addr))
		if took := time.Since(start); took < wait {
			t.Errorf("refused after %v, expected not before %v", took, wait)
		}
		inLine(t, "default", 1, 0)
	}
	send(t, holder, "still here")
	expect(t, served, "still here")
	svc.nobody(t, "both have been refused")
}

// Of five in line only the one in the middle came when the config had a wait_timeout. It
// is refused when that is over, where it stands; the others keep their order.
func TestWaitTimeoutInTheMiddleOfTheLine(t *testing.T) {
	const wait = 2 * time.Second
	svc := newService(t, nil)
	addr := freeAddr(t)
	patient := lockConfig(addr, "tcplock {\nlinger 0\n}", svc.addr)
	impatient := lockConfig(addr, fmt.Sprintf("tcplock {\nlinger 0\nwait_timeout %s\n}", wait), svc.addr)
	load(t, patient)
	var clients []*net.TCPConn
	join := func() {
		i := len(clients)
		clients = append(clients, dial(t, addr))
		send(t, clients[i], number(i))
		inLine(t, "default", 1, i)
	}
	join()
	holder := svc.next(t)
	join()
	join()
	load(t, impatient)
	start := time.Now()
	join()
	load(t, patient)
	join()
	join()
	expectClosed(t, clients[3])
	if took := time.Since(start); took < wait {
		t.Errorf("refused after %v, expected not before %v", took, wait)
	}
	inLine(t, "default", 1, 4)
	for _, i := range []int{1, 2, 4, 5} {
		svc.leave(holder)
		holder = svc.next(t)
		expect(t, holder, number(i))
	}
}
