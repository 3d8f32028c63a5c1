package places_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// place is a place in a config where tcplock may stand. (More are in ways.)
type place struct {
	name   string
	server string // the server, with the lock and the service to be filled in
	come   func(t *testing.T, addr, data string) net.Conn
}

var places = []place{
	{"before tls", "route {\n%s\ntls\nproxy %s\n}", withTLS},
	{"before proxy_protocol", "route {\n%s\n" + caddytest.AllowProxy + "\nproxy %s\n}", caddytest.WithHeader},
	{"between proxy_protocol and tls", "route {\n" + caddytest.AllowProxy + "\n%s\ntls\nproxy %s\n}", withHeaderAndTLS},
	{"before throttle", "route {\n%s\n" + caddytest.Slowdown + "\nproxy %s\n}", caddytest.DialSend},
	{"after throttle", "route {\n" + caddytest.Slowdown + "\n%s\nproxy %s\n}", caddytest.DialSend},
	{"in subroute", "route {\nsubroute {\nroute {\n%s\nproxy %s\n}\n}\n}", caddytest.DialSend},
	{"in subroute with matcher", "route {\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\n%s\nproxy %s\n}\n}\n}", caddytest.DialSend},
	{"in subroute after tls", "@tls tls\nroute @tls {\ntls\nsubroute {\nroute {\n%s\nproxy %s\n}\n}\n}", withTLS},
	{"before subroute", "route {\n%s\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\nproxy %s\n}\n}\n}", caddytest.DialSend},
	{"in a later route", "@tls tls\nroute @tls {\ntls\n}\nroute {\n%s\nproxy %s\n}", withTLS},
}

func withTLS(t *testing.T, addr, data string) net.Conn {
	return shakeHands(caddytest.Dial(t, addr), data)
}

func withHeaderAndTLS(t *testing.T, addr, data string) net.Conn {
	return shakeHands(caddytest.DialSend(t, addr, caddytest.ProxyHeader), data)
}

// shakeHands begins a handshake, and sends data when it is complete. That may be only when the
// client has got its slot.
func shakeHands(conn net.Conn, data string) net.Conn {
	secure := tls.Client(conn, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	go func() { _, _ = io.WriteString(secure, data) }()
	return secure
}

// In each place, ten clients go through two slots, first come, first served. Each of them can
// talk to the service as long as it has its slot. This also holds with a reload in between.
func TestPlaces(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := caddytest.FreeAddr(t)
			config := func(lock string) []byte {
				return caddytest.WithCertificate(t, caddytest.Adapt(t, caddytest.Global(fmt.Sprintf("layer4 {\n%s {\n"+p.server+"\n}\n}", addr, lock, svc.Addr))))
			}
			if err := caddytest.TryLoadJSON(t, config("tcplock 2")); err != nil {
				t.Fatal(err)
			}
			caddytest.LeakCheck(t)
			l := caddytest.NewLine(svc, addr, 2)
			l.Come = func(t *testing.T, i int) net.Conn { return p.come(t, addr, caddytest.Number(i)) }
			l.Join(t, 7)
			for i := range 4 {
				l.Leave(t, i)
				l.Talk(t)
			}
			if err := caddytest.TryLoadJSON(t, config("tcplock 2 {\nwait_timeout 1h\n}")); err != nil {
				t.Fatal(err)
			}
			l.Join(t, 3)
			l.Talk(t)
			l.Finish(t)
			if _, most, total := svc.Counts(); most != 2 || total != 10 {
				t.Errorf("the service had %d connections at most and %d in all, expected 2 and 10", most, total)
			}
		})
	}
}

// Two servers share a lock by its name, whether the second has no other setting or the same
// settings as the first. Clients of both stand in one line.
func TestLockSharedByServers(t *testing.T) {
	for _, second := range []string{"", "linger 0\nwait_timeout 1h"} {
		t.Run(fmt.Sprintf("%q", second), func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addrs := []string{caddytest.FreeAddr(t), caddytest.FreeAddr(t)}
			caddytest.Load(t, caddytest.Global(fmt.Sprintf("layer4 {\n%s {\nroute {\ntcplock {\nname shared\nlinger 0\nwait_timeout 1h\n}\nproxy %s\n}\n}\n%s {\nroute {\ntcplock {\nname shared\n%s\n}\nproxy %s\n}\n}\n}",
				addrs[0], svc.Addr, addrs[1], second, svc.Addr)))
			caddytest.LeakCheck(t)
			l := caddytest.NewLine(svc, "", 1)
			l.Lock = "shared"
			l.Come = func(t *testing.T, i int) net.Conn { return caddytest.DialSend(t, addrs[i%2], caddytest.Number(i)) }
			l.Join(t, 10)
			for i := range 10 {
				l.Talk(t)
				l.Leave(t, i)
			}
		})
	}
}

// A connection goes through one lock, and then through another one. It keeps its slot of the
// first while it waits for the second. The service never has more than one connection.
func TestTwoLocksOnOneWay(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock 3 {\nname outer\nlinger 0\n}\ntcplock {\nname inner\nlinger 0\n}", svc.Addr)
	caddytest.LeakCheck(t)
	for i := range 5 {
		caddytest.DialSend(t, addr, caddytest.Number(i))
		caddytest.InLine(t, "inner", 1, min(i, 2))
		caddytest.InLine(t, "outer", min(i+1, 3), max(0, i-2))
	}
	for i := range 5 {
		conn := svc.Next(t)
		caddytest.Expect(t, conn, caddytest.Number(i))
		caddytest.InLine(t, "inner", 1, min(2, 4-i))
		caddytest.InLine(t, "outer", min(3, 5-i), max(0, 2-i))
		svc.Leave(conn)
	}
	caddytest.InLine(t, "inner", 0, 0)
	caddytest.InLine(t, "outer", 0, 0)
	if _, most, _ := svc.Counts(); most != 1 {
		t.Errorf("the service had %d connections at most, expected 1", most)
	}
}

// A connection that has a slot of a lock and comes to the same lock again would wait for
// itself. It is closed, the log says why, and the lock goes on.
func TestSameLockTwiceOnOneWay(t *testing.T) {
	for name, route := range map[string]string{
		"in the same route":   "tcplock 2 {\nname same\n}\ntcplock {\nname same\n}\nproxy %s",
		"in subroute":         "tcplock {\nname same\nlinger 0\n}\nsubroute {\nroute {\ntcplock {\nname same\n}\nproxy %s\n}\n}",
		"with one in between": "tcplock 3 {\nname same\n}\ntcplock 3 {\nname between\n}\ntcplock {\nname same\n}\nproxy %s",
	} {
		t.Run(name, func(t *testing.T) {
			svc := caddytest.NewService(t, caddytest.Echo)
			option, logged := caddytest.LogFile(t)
			twice, once := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
			caddytest.Load(t, caddytest.Global(fmt.Sprintf(option+"\nlayer4 {\n%s {\nroute {\n"+route+"\n}\n}\n%s {\nroute {\ntcplock {\nname same\n}\nproxy %s\n}\n}\n}",
				twice, svc.Addr, once, svc.Addr)))
			caddytest.ExpectClosed(t, caddytest.Dial(t, twice))
			logged(t, "found a second tcplock of lock same on one connection's way")
			caddytest.LeakCheck(t)
			for range 5 {
				caddytest.ExpectClosed(t, caddytest.Dial(t, twice))
			}
			caddytest.InLine(t, "same", 0, 0)
			caddytest.ExpectServed(t, once)
			if _, _, total := svc.Counts(); total != 1 {
				t.Errorf("%d connections reached the service, expected the one that comes to the lock once", total)
			}
		})
	}
}

// A connection that finds the main service taken goes to a spare one, behind a lock and a line
// of its own. Neither service ever has more than one connection.
func TestOverflowLock(t *testing.T) {
	svc, spare := caddytest.NewService(t, nil), caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nname main\nlinger 0\nmax_waiting 0\nrefuse {\ntcplock {\nname overflow\nlinger 0\n}\nproxy %s\n}\n}", spare.Addr), svc.Addr)
	caddytest.LeakCheck(t)
	main, overflow := caddytest.NewLine(svc, addr, 1), caddytest.NewLine(spare, addr, 1)
	main.Lock, overflow.Lock = "main", "overflow"
	main.Join(t, 1)
	overflow.Join(t, 5)
	main.Talk(t)
	overflow.Talk(t)
	main.Leave(t, 0)
	main.Join(t, 1)
	overflow.Join(t, 1)
	for i := range 6 {
		overflow.Talk(t)
		overflow.Leave(t, i)
	}
	main.Talk(t)
	main.Finish(t)
}

// No handler after tcplock takes the connection, which only shows when a connection comes. It
// is closed, the log says why, and the slot is released.
func TestNoHandlerTakesConnection(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	option, logged := caddytest.LogFile(t)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.Global(fmt.Sprintf(option+"\nlayer4 {\n%s {\nroute {\ntcplock\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\nproxy %s\n}\n}\n}\n}\n}", addr, svc.Addr)))
	caddytest.ExpectClosed(t, caddytest.DialSend(t, addr, "no number"))
	logged(t, "tcplock must be followed, in the same route, by a handler that uses the connection up")
	caddytest.LeakCheck(t)
	for range 5 {
		caddytest.ExpectClosed(t, caddytest.DialSend(t, addr, "no number"))
		caddytest.InLine(t, "default", 0, 0)
	}
	conn := caddytest.DialSend(t, addr, caddytest.Number(7))
	caddytest.Expect(t, conn, caddytest.Number(7))
}

// In a place where a lock would not hold, or would stop other connections, the config is
// refused with the reason. (The plainest cases are in testdata/adapt.)
func TestPlacesRefused(t *testing.T) {
	const (
		udp         = "tcplock cannot stand on a UDP server"
		tee         = "tcplock cannot stand in a tee branch"
		notTerminal = "tcplock must be followed, in the same route, by a handler that uses the connection up"
	)
	for _, refused := range []struct{ name, server, want string }{
		{"a name that no handler defines", "%s {\nroute {\ntcplock {\nname nobody\n}\necho\n}\n}", "lock nobody: no handler of this config has its settings"},
		{"one of two addresses is UDP", "%[1]s udp/%[1]s {\nroute {\ntcplock\necho\n}\n}", udp},
		{"in subroute on UDP", "udp/%s {\nroute {\nsubroute {\nroute {\ntcplock\necho\n}\n}\n}\n}", udp},
		{"in tee on UDP", "udp/%s {\nroute {\ntee {\ntcplock\necho\n}\necho\n}\n}", udp},
		{"in subroute in tee", "%s {\nroute {\ntee {\nsubroute {\nroute {\ntcplock\necho\n}\n}\n}\necho\n}\n}", tee},
		{"before tls alone", "%s {\nroute {\ntcplock\ntls\n}\n}", notTerminal},
		{"before another tcplock alone", "%s {\nroute {\ntcplock 1 {\nname a\n}\ntcplock 1 {\nname b\n}\n}\n}", notTerminal},
		{"before tee alone", "%s {\nroute {\ntcplock\ntee {\necho\n}\n}\n}", notTerminal},
		{"at the end of subroute", "%s {\nroute {\nsubroute {\nroute {\ntcplock\n}\n}\necho\n}\n}", notTerminal},
		{"at the end of refuse", "%s {\nroute {\ntcplock 1 {\nname a\nrefuse {\ntcplock 1 {\nname b\n}\n}\n}\necho\n}\n}", notTerminal},
	} {
		t.Run(refused.name, func(t *testing.T) {
			addr := caddytest.FreeAddr(t)
			err := caddytest.TryLoad(t, caddytest.Global("layer4 {\n"+fmt.Sprintf(refused.server, addr)+"\n}"))
			if err == nil || !strings.Contains(err.Error(), refused.want) {
				t.Errorf("found %v, expected an error with %s", err, refused.want)
			}
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Error("a server listens that should have been refused")
			}
			if n := caddytest.Locks(); n != 0 {
				t.Errorf("there are %d locks, expected none", n)
			}
		})
	}
}
