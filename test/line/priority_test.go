package line_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// priorities starts Caddy with servers that share a lock, each with its own priority, and
// returns their addresses.
func priorities(t *testing.T, service, settings string, priorities ...int) (addrs []string) {
	t.Helper()
	servers := ""
	for i, n := range priorities {
		addr := caddytest.FreeAddr(t)
		if i > 0 {
			settings = "" // the others join
		}
		servers += fmt.Sprintf("%s {\nroute {\ntcplock {\nname shared\npriority %d\n%s\n}\nproxy %s\n}\n}\n", addr, n, settings, service)
		addrs = append(addrs, addr)
	}
	caddytest.Load(t, caddytest.Global("layer4 {\n"+servers+"}"))
	caddytest.LeakCheck(t)
	return addrs
}

// Clients come to one lock by three servers with different priorities. The higher priority goes
// first, and within one priority the waiter that came first. A holder keeps its slot.
func TestPriorities(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addrs := priorities(t, svc.Addr, "linger 0", 0, 10, -5)
	var clients []net.Conn
	for i, server := range []int{2, 2, 0, 1, 0, 1, 2, 1} {
		clients = append(clients, caddytest.DialSend(t, addrs[server], caddytest.Number(i)))
		caddytest.InLine(t, "shared", 1, i)
	}
	for _, i := range []int{0, 3, 5, 7, 2, 4, 1, 6} {
		conn := svc.Gets(t, i)
		svc.Leave(conn)
		caddytest.ExpectEOF(t, clients[i])
	}
	caddytest.InLine(t, "shared", 0, 0)
	caddytest.NeverTwo(t, svc)
}

// A waiter with a low priority has been in line long enough to make up for it. With an age of
// 300ms, 10 priority points are 3 seconds. So it goes before a waiter with a high priority that
// has just come, but after one that came soon after it. Without an age it goes last.
func TestPriorityAge(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for name, c := range map[string]struct {
		settings string
		want     []int
	}{
		"with an age":    {"priority_age 300ms", []int{0, 2, 1, 3}},
		"without an age": {"", []int{0, 2, 3, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addrs := priorities(t, svc.Addr, "linger 0\n"+c.settings, 0, 10)
			for i, server := range []int{0, 0, 1, 1} {
				if i == 3 {
					time.Sleep(3300 * time.Millisecond)
				}
				caddytest.DialSend(t, addrs[server], caddytest.Number(i))
				caddytest.InLine(t, "shared", 1, i)
			}
			for _, i := range c.want {
				svc.Leave(svc.Gets(t, i))
			}
			caddytest.InLine(t, "shared", 0, 0)
		})
	}
}

// A reload gives the servers other priorities. A waiter keeps the priority with which it came.
func TestPrioritiesReloaded(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	config := func(addrs []string, first, second int) string {
		server := "%s {\nroute {\ntcplock {\nname shared\npriority %d\nlinger 0\nwait_timeout %ds\n}\nproxy %s\n}\n}\n"
		return caddytest.Global("layer4 {\n" + fmt.Sprintf(server, addrs[0], first, 100+first, svc.Addr) + fmt.Sprintf(server, addrs[1], second, 100+first, svc.Addr) + "}")
	}
	addrs := []string{caddytest.FreeAddr(t), caddytest.FreeAddr(t)}
	caddytest.Load(t, config(addrs, 1, 2))
	caddytest.LeakCheck(t)
	for i, server := range []int{0, 0, 1, 0, 1} {
		if i == 3 {
			caddytest.Load(t, config(addrs, 3, 2))
		}
		caddytest.DialSend(t, addrs[server], caddytest.Number(i))
		caddytest.InLine(t, "shared", 1, i)
	}
	for _, i := range []int{0, 3, 2, 4, 1} {
		svc.Leave(svc.Gets(t, i))
	}
	caddytest.InLine(t, "shared", 0, 0)
}

// A connection with a high priority gets a worker that is down. It goes back to its place in
// line: before waiters with a lower priority, and before those that came after it.
func TestPriorityBackInLine(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	tries, letGo := caddytest.HoldTries(2)
	defer letGo()
	svc := caddytest.NewService(t, nil)
	addrs := priorities(t, "{l4.tcplock.worker}", "linger 0\non activate test_call\nworkers "+svc.Addr+" "+caddytest.FreeAddr(t), 0, 1)
	for i, server := range []int{0, 1, 0, 1} {
		caddytest.DialSend(t, addrs[server], caddytest.Number(i))
		caddytest.InLine(t, "shared", min(i+1, 2), max(0, i-1))
	}
	at := svc.Gets(t, 0)
	for range 4 { // then the worker is left out for long enough
		close(caddytest.NextCall(t, tries, "activate", 2).GoOn)
	}
	caddytest.InLine(t, "shared", 1, 3)
	for _, i := range []int{1, 3, 2} {
		svc.Leave(at)
		at = svc.Gets(t, i)
	}
	svc.Leave(at)
	caddytest.InLine(t, "shared", 0, 0)
}
