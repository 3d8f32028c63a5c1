package tcplock_test

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// priorities starts Caddy with servers that share a lock, each with its own priority, and
// returns their addresses.
func priorities(t *testing.T, service, settings string, priorities ...int) (addrs []string) {
	t.Helper()
	servers := ""
	for i, n := range priorities {
		addr := freeAddr(t)
		if i > 0 {
			settings = "" // the others join
		}
		servers += fmt.Sprintf("%s {\nroute {\ntcplock {\nname shared\npriority %d\n%s\n}\nproxy %s\n}\n}\n", addr, n, settings, service)
		addrs = append(addrs, addr)
	}
	load(t, global("layer4 {\n"+servers+"}"))
	leakCheck(t)
	return addrs
}

// Clients come by three servers with priorities of their own to one lock. The higher one
// goes first, and within one priority who came first; who has the slot keeps it.
func TestPriorities(t *testing.T) {
	svc := newService(t, nil)
	addrs := priorities(t, svc.addr, "linger 0", 0, 10, -5)
	var clients []net.Conn
	for i, server := range []int{2, 2, 0, 1, 0, 1, 2, 1} {
		clients = append(clients, plainly(t, addrs[server], number(i)))
		inLine(t, "shared", 1, i)
	}
	for _, i := range []int{0, 3, 5, 7, 2, 4, 1, 6} {
		conn := svc.gets(t, i)
		svc.leave(conn)
		expectEOF(t, clients[i])
	}
	inLine(t, "shared", 0, 0)
	neverTwo(t, svc)
}

// One with a low priority has been in line for longer than its lack of it is worth: with
// an age of 300ms, 10 of priority are 3 seconds. So it goes before one with a high priority
// who has just come, but after one who came soon after it. Without an age it goes last.
func TestPriorityAge(t *testing.T) {
	for name, c := range map[string]struct {
		settings string
		want     []int
	}{
		"with an age":    {"priority_age 300ms", []int{0, 2, 1, 3}},
		"without an age": {"", []int{0, 2, 3, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			svc := newService(t, nil)
			addrs := priorities(t, svc.addr, "linger 0\n"+c.settings, 0, 10)
			for i, server := range []int{0, 0, 1, 1} {
				if i == 3 {
					time.Sleep(3300 * time.Millisecond)
				}
				plainly(t, addrs[server], number(i))
				inLine(t, "shared", 1, i)
			}
			for _, i := range c.want {
				svc.leave(svc.gets(t, i))
			}
			inLine(t, "shared", 0, 0)
		})
	}
}

// A reload gives the servers other priorities. Who stands in line keeps the one it came
// with.
func TestPrioritiesReloaded(t *testing.T) {
	svc := newService(t, nil)
	config := func(addrs []string, first, second int) string {
		server := "%s {\nroute {\ntcplock {\nname shared\npriority %d\nlinger 0\nwait_timeout %ds\n}\nproxy %s\n}\n}\n"
		return global("layer4 {\n" + fmt.Sprintf(server, addrs[0], first, 100+first, svc.addr) + fmt.Sprintf(server, addrs[1], second, 100+first, svc.addr) + "}")
	}
	addrs := []string{freeAddr(t), freeAddr(t)}
	load(t, config(addrs, 1, 2))
	leakCheck(t)
	for i, server := range []int{0, 0, 1, 0, 1} {
		if i == 3 {
			load(t, config(addrs, 3, 2))
		}
		plainly(t, addrs[server], number(i))
		inLine(t, "shared", 1, i)
	}
	for _, i := range []int{0, 3, 2, 4, 1} {
		svc.leave(svc.gets(t, i))
	}
	inLine(t, "shared", 0, 0)
}

// The worker of one with a high priority is down. It is back in line at its place: before
// those with a lower one, and before those who came after it.
func TestPriorityBackInLine(t *testing.T) {
	tries, letGo := holdTries(2)
	defer letGo()
	svc := newService(t, nil)
	addrs := priorities(t, "{l4.tcplock.worker}", "linger 0\non activate test_call\nworkers "+svc.addr+" "+freeAddr(t), 0, 1)
	for i, server := range []int{0, 1, 0, 1} {
		plainly(t, addrs[server], number(i))
		inLine(t, "shared", min(i+1, 2), max(0, i-1))
	}
	at := svc.gets(t, 0)
	for range 4 { // then it is left out for long enough
		close(nextCall(t, tries, "activate", 2).goOn)
	}
	inLine(t, "shared", 1, 3)
	for _, i := range []int{1, 3, 2} {
		svc.leave(at)
		at = svc.gets(t, i)
	}
	svc.leave(at)
	inLine(t, "shared", 0, 0)
}
