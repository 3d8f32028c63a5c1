package relay_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A reload brings a new service, and the old one ends, while the line is long. The holders finish at the old
// service. Each waiter goes to the new one, whenever it came, and there are never more at both than slots.
func TestWaitersGoToTheServiceInForce(t *testing.T) {
	for _, slots := range []int{1, 2} {
		t.Run(fmt.Sprint(slots, " slots"), func(t *testing.T) {
			blue, green, addr := caddytest.NewService(t, nil), caddytest.NewService(t, nil), caddytest.FreeAddr(t)
			caddytest.Load(t, config(addr, slots, "", blue.Addr))
			caddytest.LeakCheck(t)
			var at []*net.TCPConn
			for i := range slots + 4 {
				caddytest.DialSend(t, addr, caddytest.Number(i))
				caddytest.InLine(t, "default", min(i+1, slots), max(0, i+1-slots))
				if i < slots {
					at = append(at, blue.Gets(t, i))
				}
			}
			caddytest.Load(t, config(addr, slots, "wait_timeout 1h", green.Addr))
			caddytest.DialSend(t, addr, caddytest.Number(slots+4))
			caddytest.InLine(t, "default", slots, 5)
			green.NoneComes(t, "all slots are held at the old service")
			for i, conn := range at {
				caddytest.Send(t, conn, "still here")
				blue.Leave(conn)
				at[i] = green.Gets(t, slots+i)
			}
			for i := range 5 - slots {
				green.Leave(at[i])
				at = append(at, green.Gets(t, 2*slots+i))
			}
			for _, conn := range at[5-slots:] {
				green.Leave(conn)
			}
			caddytest.InLine(t, "default", 0, 0)
			blue.NoneComes(t, "a reload has taken it away")
			if _, most, _ := green.Counts(); most > slots {
				t.Errorf("found %d at once, expected %d", most, slots)
			}
		})
	}
}

// A reload changes the way out while connections wait: from tcplock itself to proxy, and back. Each connection
// is served, by the way out of the config by which it came, one at a time. The status has the address.
func TestReloadChangesTheWayOut(t *testing.T) {
	t.Run("ends at to", func(t *testing.T) { changeTheWayOut(t, 0) })
	t.Run("ends at proxy", func(t *testing.T) { changeTheWayOut(t, 1) })
}

// changeTheWayOut begins with one of the ways out, and comes back to it.
func changeTheWayOut(t *testing.T, first int) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	plain := caddytest.ProxyConfig(addr, "tcplock {\nlinger 0\n}", svc.Addr) // only proxy knows the address
	ways := []string{
		config(addr, 1, "", svc.Addr),
		plain,
		caddytest.RouteConfig(addr, "tcplock {\nworkers "+svc.Addr+"\nlinger 0\n}"),
		caddytest.ProxyConfig(addr, "tcplock {\nworkers "+svc.Addr+"\nlinger 0\n}", "{l4.tcplock.worker}"),
		config(addr, 1, "wait_timeout 1h", svc.Addr),
	}
	ways = append(ways[first:], ways[:first+1]...)
	caddytest.Load(t, ways[0])
	caddytest.LeakCheck(t)
	for i, config := range ways {
		caddytest.Load(t, config)
		for n := range 2 {
			caddytest.DialSend(t, addr, caddytest.Number(2*i+n))
			caddytest.InLine(t, "default", 1, 2*i+n)
		}
	}
	for i := range 2 * len(ways) {
		conn := svc.Next(t)
		caddytest.Expect(t, conn, caddytest.Number(i))
		caddytest.InLine(t, "default", 1, 2*len(ways)-1-i)
		if h := caddytest.Status(t, "default").Holders[0]; ways[i/2] != plain && h.Worker != svc.Addr {
			t.Errorf("connection %d: found %q, expected the service's address", i, h.Worker)
		}
		svc.Leave(conn)
	}
	caddytest.InLine(t, "default", 0, 0)
	if _, most, _ := svc.Counts(); most != 1 {
		t.Errorf("found %d at once, expected 1", most)
	}
}
