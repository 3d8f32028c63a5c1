package tcplock_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// One client holds the slot and as many wait as may. The next one is refused at once, and
// so are those after it: the refuse handlers get them, or they are closed. When a waiter
// has gone its place can be had again, and all who wait are served. Of the few descriptors
// there are here the refused ones keep none.
func TestFullLineRefusesTheNext(t *testing.T) {
	t.Cleanup(tcplock.SetDescriptorLimit(64 + 16)) // when Caddy has stopped
	busy := newService(t, answerBusy)
	for _, refuse := range []struct{ name, handlers, answer string }{
		{"close", "", ""},
		{"echo", "refuse {\necho\n}", "hello"},
		{"proxy", "refuse {\nproxy " + busy.addr + "\n}", "busy!"},
	} {
		for _, most := range []int{0, 2} {
			t.Run(fmt.Sprintf("%s, max_waiting %d", refuse.name, most), func(t *testing.T) {
				svc := newService(t, nil)
				addr := lockServer(t, fmt.Sprintf("tcplock {\nlinger 0\nmax_waiting %d\n%s\n}", most, refuse.handlers), svc.addr)
				leakCheck(t)
				clients := fill(t, addr, "default", 1, most)
				for range 5 {
					expectRefused(t, addr, refuse.answer)
				}
				if most > 0 {
					clients[1].Close()
					inLine(t, "default", 1, most-1)
					dial(t, addr)
					inLine(t, "default", 1, most)
					expectRefused(t, addr, refuse.answer)
				}
				for range 1 + most {
					svc.leave(svc.next(t))
				}
				inLine(t, "default", 0, 0)
				svc.nobody(t, "the others have been refused")
			})
		}
	}
}

// fill lets clients come until the lock has that many holders and waiters, and returns
// them in their order.
func fill(t *testing.T, addr, lock string, held, waiting int) (clients []*net.TCPConn) {
	t.Helper()
	for i := range held + waiting {
		clients = append(clients, dial(t, addr))
		inLine(t, lock, min(i+1, held), max(0, i+1-held))
	}
	return clients
}

// expectRefused makes sure that a client that says hello gets this answer and its end; no
// answer is an end that may be a reset.
func expectRefused(t *testing.T, addr, answer string) {
	t.Helper()
	conn := dial(t, addr)
	if answer == "" {
		expectClosed(t, conn)
		return
	}
	send(t, conn, "hello")
	expect(t, conn, answer)
	_ = conn.CloseWrite()
	expectEOF(t, conn)
}

// answerBusy is what a service does that gets the refused ones.
func answerBusy(conn *net.TCPConn) {
	_, _ = io.ReadFull(conn, make([]byte, len("hello")))
	_, _ = io.WriteString(conn, "busy!")
}

// The process has 64 descriptors for all else and ten for connections, and the line may
// be longer than that. Two for the holder of each of the locks and one for each waiter,
// that makes eight connections in the two locks together. The ninth is refused, at
// either lock. When a waiter has gone, its place can be had at the other lock.
func TestLocksShareTheDescriptors(t *testing.T) {
	t.Cleanup(tcplock.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := newService(t, nil)
	a, b := freeAddr(t), freeAddr(t)
	server := func(addr, name string) string {
		return fmt.Sprintf("%s {\nroute {\ntcplock {\nname %s\nlinger 0\nmax_waiting 1000\n}\nproxy %s\n}\n}\n", addr, name, svc.addr)
	}
	load(t, global("layer4 {\n"+server(a, "a")+server(b, "b")+"}"))
	leakCheck(t)
	clients := fill(t, a, "a", 1, 4)
	clients = append(clients, fill(t, b, "b", 1, 2)...)
	expectRefused(t, a, "")
	expectRefused(t, b, "")
	clients[1].Close()
	inLine(t, "a", 1, 3)
	eventually(t, "it is out of the budget", func() bool { return tcplock.Counted() == 7 }) // and not only of the line
	clients = append(clients, dial(t, b))
	inLine(t, "b", 1, 3)
	expectRefused(t, a, "")

	for range 8 {
		svc.leave(svc.next(t))
	}
	for _, conn := range clients {
		conn.Close()
	}
	inLine(t, "a", 0, 0)
	inLine(t, "b", 0, 0)
	eventually(t, "a client gets in", func() bool { // the others may still be on their way out
		dial(t, a)
		_, held, _, _ := tcplock.LockStats("a")
		return held == 1
	})
	svc.next(t)
}
