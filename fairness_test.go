package tcplock_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// from connects from another loopback address and sends data.
func from(t *testing.T, source, addr, data string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		t.Skip("this system has one loopback address:", err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	send(t, conn, data)
	return conn
}

// proxied connects as if a proxy did that for a client at source.
func proxied(t *testing.T, source, addr, data string) net.Conn {
	t.Helper()
	family, to := "TCP4", "192.0.2.2"
	if net.ParseIP(source).To4() == nil {
		family, to = "TCP6", "2001:db8::2"
	}
	return plainly(t, addr, fmt.Sprintf("PROXY %s %s %s 1000 9100\r\n%s", family, source, to, data))
}

// fairWays are how the lock learns of two clients, a and b, each of which has two addresses
// that count as one.
var fairWays = []struct {
	name, before string
	come         func(t *testing.T, source, addr, data string) net.Conn
	a, b         [2]string
}{
	{"loopback addresses", "", from, [2]string{"127.0.0.1", "127.0.0.1"}, [2]string{"127.0.0.2", "127.0.0.2"}},
	{"PROXY protocol", allowProxy, proxied, [2]string{"192.0.2.1", "192.0.2.1"}, [2]string{"192.0.2.3", "192.0.2.3"}},
	{"IPv6 networks", allowProxy, proxied, [2]string{"2001:db8:0:1::1", "2001:db8:0:1:ffff::9"}, [2]string{"2001:db8:0:2::1", "2001:db8:0:2::2"}},
}

// A client with many connections may have one slot at a time. Those that would be its
// second are passed over, and go on in their order; another client's go before them.
func TestMaxPerClient(t *testing.T) {
	for _, way := range fairWays {
		t.Run(way.name, func(t *testing.T) {
			svc := newService(t, nil)
			addr := lockServer(t, way.before+"\ntcplock 2 {\nlinger 0\nmax_per_client 1\n}", svc.addr)
			leakCheck(t)
			for i := range 4 {
				way.come(t, way.a[i%2], addr, number(i))
				inLine(t, "default", 1, i)
			}
			a := svc.gets(t, 0)
			svc.nobody(t, "the client has its share")
			for i := range 2 {
				way.come(t, way.b[i%2], addr, number(4+i))
				inLine(t, "default", 2, 3+i)
			}
			b := svc.gets(t, 4)
			for i := range 3 {
				svc.leave(a)
				a = svc.gets(t, 1+i)
			}
			svc.leave(b)
			svc.leave(svc.gets(t, 5))
			inLine(t, "default", 1, 0)
			svc.leave(a)
			inLine(t, "default", 0, 0)
			noClients(t)
		})
	}
}

// A client may have two connections in line, and is refused at its third; another client
// has two of its own. One that leaves the line makes room.
func TestMaxWaitingPerClient(t *testing.T) {
	for _, way := range fairWays {
		t.Run(way.name, func(t *testing.T) {
			svc := newService(t, nil)
			addr := lockServer(t, way.before+"\ntcplock {\nlinger 0\nmax_waiting_per_client 2\nhalf_closed drop\nrefuse {\ntest_tell_reason\n}\n}", svc.addr)
			leakCheck(t)
			refused := func(source string) {
				t.Helper()
				conn := way.come(t, source, addr, "")
				expect(t, conn, "refused_full")
				_ = conn.(*net.TCPConn).CloseWrite()
				expectEOF(t, conn)
			}
			var clients []net.Conn
			for i := range 5 {
				source := way.a[i%2]
				if i > 2 {
					source = way.b[i%2]
				}
				clients = append(clients, way.come(t, source, addr, number(i)))
				inLine(t, "default", 1, i)
			}
			for _, source := range [][2]string{way.a, way.b} {
				refused(source[0])
				refused(source[1])
			}
			clients[1].Close()
			inLine(t, "default", 1, 3)
			way.come(t, way.a[1], addr, number(5))
			inLine(t, "default", 1, 4)
			refused(way.a[0])
			for _, i := range []int{0, 2, 3, 4, 5} {
				svc.leave(svc.gets(t, i))
			}
			inLine(t, "default", 0, 0)
			noClients(t)
		})
	}
}

// A reload bounds the clients who are there already, and another one lets them go again.
func TestMaxPerClientReloaded(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	reload := func(options string) {
		load(t, lockConfig(addr, "tcplock 3 {\nlinger 0\n"+options+"\n}", svc.addr))
	}
	reload("")
	leakCheck(t)
	var at []*net.TCPConn
	for i := range 5 {
		plainly(t, addr, number(i))
		if i < 3 {
			at = append(at, svc.gets(t, i))
		}
		inLine(t, "default", min(i+1, 3), max(0, i-2))
	}
	reload("max_per_client 1")
	for i := range 2 {
		svc.leave(at[i])
		inLine(t, "default", 2-i, 2)
	}
	svc.nobody(t, "the client has its share")
	reload("")
	svc.next(t).Close()
	svc.next(t).Close()
	svc.leave(at[2])
	inLine(t, "default", 0, 0)
	noClients(t)
}

// A client whose worker is down has its share while it is tried, and gives it up when it is
// back in line: its connections are served one by one, in order.
func TestMaxPerClientAndWorkerDown(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	load(t, poolConfig(addr, "max_per_client 1", freeAddr(t), svc.addr, freeAddr(t)))
	leakCheck(t)
	for i := range 4 {
		plainly(t, addr, number(i))
		inLine(t, "default", 1, i)
	}
	for i := range 4 {
		svc.leave(svc.gets(t, i))
	}
	inLine(t, "default", 0, 0)
	noClients(t)
	neverTwo(t, svc)
}

// noClients makes sure that the lock remembers no client.
func noClients(t *testing.T) {
	t.Helper()
	if n := tcplock.Clients("default"); n != 0 {
		t.Errorf("the lock remembers %d clients, expected none", n)
	}
}
