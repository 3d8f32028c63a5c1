package listen_test

import (
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A hundred clients connect in one moment. On keep/ they are served in the order in which the system
// accepted them, although each has a goroutine of its own that brings it to the lock.
func TestOrderOfAccept(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.LockConfig("keep/"+addr, "tcplock {\nlinger 0\n}", svc.Addr))
	for range 5 {
		first := caddytest.Dial(t, addr)
		holder := svc.Next(t)
		const clients = 100
		var all []*net.TCPConn
		for range clients {
			all = append(all, caddytest.Dial(t, addr))
		}
		caddytest.InLine(t, "default", 1, clients)
		for i, client := range all {
			caddytest.Send(t, client, caddytest.Number(i))
		}
		svc.Leave(holder)
		first.Close()
		for i, client := range all {
			holder = svc.Next(t)
			caddytest.Expect(t, holder, caddytest.Number(i))
			svc.Leave(holder)
			client.Close()
		}
	}
}
