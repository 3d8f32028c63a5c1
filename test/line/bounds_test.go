package line_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// One client holds the slot, and the line is full. The next client is refused at once, and so
// are those after it: the refuse handlers get them, or they are closed. When a waiter has gone,
// its place is free again, and all waiters are served. There are few descriptors, and the
// refused clients keep none.
func TestFullLineRefusesTheNext(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 16)) // when Caddy has stopped
	busy := caddytest.NewService(t, answerBusy)
	for _, refuse := range []struct{ name, handlers, answer string }{
		{"close", "", ""},
		{"echo", "refuse {\necho\n}", "hello"},
		{"proxy", "refuse {\nproxy " + busy.Addr + "\n}", "busy!"},
	} {
		for _, most := range []int{0, 2} {
			t.Run(fmt.Sprintf("%s, max_waiting %d", refuse.name, most), func(t *testing.T) {
				svc := caddytest.NewService(t, nil)
				addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nlinger 0\nmax_waiting %d\n%s\n}", most, refuse.handlers), svc.Addr)
				caddytest.LeakCheck(t)
				clients := caddytest.Fill(t, addr, "default", 1, most)
				for range 5 {
					expectRefused(t, addr, refuse.answer)
				}
				if most > 0 {
					clients[1].Close()
					caddytest.InLine(t, "default", 1, most-1)
					caddytest.Dial(t, addr)
					caddytest.InLine(t, "default", 1, most)
					expectRefused(t, addr, refuse.answer)
				}
				for range 1 + most {
					svc.Leave(svc.Next(t))
				}
				caddytest.InLine(t, "default", 0, 0)
				svc.NoneComes(t, "the others have been refused")
			})
		}
	}
}

// expectRefused makes sure that a client that says hello gets this answer and its end. Without
// an answer, the end may be a reset.
func expectRefused(t *testing.T, addr, answer string) {
	t.Helper()
	conn := caddytest.Dial(t, addr)
	if answer == "" {
		caddytest.ExpectClosed(t, conn)
		return
	}
	caddytest.Send(t, conn, "hello")
	caddytest.Expect(t, conn, answer)
	_ = conn.CloseWrite()
	caddytest.ExpectEOF(t, conn)
}

// answerBusy is a service for refused clients.
func answerBusy(conn *net.TCPConn) {
	_, _ = io.ReadFull(conn, make([]byte, len("hello")))
	_, _ = io.WriteString(conn, "busy!")
}

// The process has 64 descriptors for everything else and ten for connections. The lines may be
// longer. Each lock needs two for a holder and one for each waiter, so the two locks together
// take eight connections. The ninth is refused at either lock. When a waiter has gone, its
// place is free at the other lock.
func TestLocksShareTheDescriptors(t *testing.T) {
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := caddytest.NewService(t, nil)
	a, b := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	server := func(addr, name string) string {
		return fmt.Sprintf("%s {\nroute {\ntcplock {\nname %s\nlinger 0\nmax_waiting 1000\n}\nproxy %s\n}\n}\n", addr, name, svc.Addr)
	}
	caddytest.Load(t, caddytest.Global("layer4 {\n"+server(a, "a")+server(b, "b")+"}"))
	caddytest.LeakCheck(t)
	clients := caddytest.Fill(t, a, "a", 1, 4)
	clients = append(clients, caddytest.Fill(t, b, "b", 1, 2)...)
	expectRefused(t, a, "")
	expectRefused(t, b, "")
	clients[1].Close()
	caddytest.InLine(t, "a", 1, 3)
	caddytest.Eventually(t, "it is out of the budget", func() bool { return caddytest.Counted() == 7 }) // not only out of the line
	clients = append(clients, caddytest.Dial(t, b))
	caddytest.InLine(t, "b", 1, 3)
	expectRefused(t, a, "")

	for range 8 {
		svc.Leave(svc.Next(t))
	}
	for _, conn := range clients {
		conn.Close()
	}
	caddytest.InLine(t, "a", 0, 0)
	caddytest.InLine(t, "b", 0, 0)
	caddytest.Eventually(t, "a client gets in", func() bool { // the others may still be on their way out
		caddytest.Dial(t, a)
		_, held, _, _ := caddytest.LockStats("a")
		return held == 1
	})
	svc.Next(t)
}
