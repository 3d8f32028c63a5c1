package line_test

import (
	"net"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
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
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	caddytest.Send(t, conn, data)
	return conn
}

// fairWays are the ways in which the lock knows two clients, a and b. Each has two addresses
// that count as one.
var fairWays = []struct {
	name, before string
	come         func(t *testing.T, source, addr, data string) net.Conn
	a, b         [2]string
}{
	{"loopback addresses", "", from, [2]string{"127.0.0.1", "127.0.0.1"}, [2]string{"127.0.0.2", "127.0.0.2"}},
	{"PROXY protocol", caddytest.AllowProxy, caddytest.Proxied, [2]string{"192.0.2.1", "192.0.2.1"}, [2]string{"192.0.2.3", "192.0.2.3"}},
	{"IPv6 networks", caddytest.AllowProxy, caddytest.Proxied, [2]string{"2001:db8:0:1::1", "2001:db8:0:1:ffff::9"}, [2]string{"2001:db8:0:2::1", "2001:db8:0:2::2"}},
}

// A client with many connections may have one slot at a time. Its further connections are
// passed over, and go on in their order later. Another client's connections go before them.
func TestMaxPerClient(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	for _, way := range fairWays {
		t.Run(way.name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, way.before+"\ntcplock 2 {\nlinger 0\nmax_per_client 1\n}", svc.Addr)
			caddytest.LeakCheck(t)
			for i := range 4 {
				way.come(t, way.a[i%2], addr, caddytest.Number(i))
				caddytest.InLine(t, "default", 1, i)
			}
			a := svc.Gets(t, 0)
			svc.NoneComes(t, "the client has its share")
			for i := range 2 {
				way.come(t, way.b[i%2], addr, caddytest.Number(4+i))
				caddytest.InLine(t, "default", 2, 3+i)
			}
			b := svc.Gets(t, 4)
			for i := range 3 {
				svc.Leave(a)
				a = svc.Gets(t, 1+i)
			}
			svc.Leave(b)
			svc.Leave(svc.Gets(t, 5))
			caddytest.InLine(t, "default", 1, 0)
			svc.Leave(a)
			caddytest.InLine(t, "default", 0, 0)
			noClients(t)
		})
	}
}

// A client may have two connections in line, and is refused at its third. Another client has
// two of its own. A connection that leaves the line makes room.
func TestMaxWaitingPerClient(t *testing.T) {
	for _, way := range fairWays {
		t.Run(way.name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, way.before+"\ntcplock {\nlinger 0\nmax_waiting_per_client 2\nhalf_closed drop\nrefuse {\ntest_tell_reason\n}\n}", svc.Addr)
			caddytest.LeakCheck(t)
			refused := func(source string) {
				t.Helper()
				conn := way.come(t, source, addr, "")
				caddytest.Expect(t, conn, "refused_full")
				_ = conn.(*net.TCPConn).CloseWrite()
				caddytest.ExpectEOF(t, conn)
			}
			var clients []net.Conn
			for i := range 5 {
				source := way.a[i%2]
				if i > 2 {
					source = way.b[i%2]
				}
				clients = append(clients, way.come(t, source, addr, caddytest.Number(i)))
				caddytest.InLine(t, "default", 1, i)
			}
			for _, source := range [][2]string{way.a, way.b} {
				refused(source[0])
				refused(source[1])
			}
			clients[1].Close()
			caddytest.InLine(t, "default", 1, 3)
			way.come(t, way.a[1], addr, caddytest.Number(5))
			caddytest.InLine(t, "default", 1, 4)
			refused(way.a[0])
			for _, i := range []int{0, 2, 3, 4, 5} {
				svc.Leave(svc.Gets(t, i))
			}
			caddytest.InLine(t, "default", 0, 0)
			noClients(t)
		})
	}
}

// A reload sets bounds for the connections that are in the lock already. Another one removes them.
func TestMaxPerClientReloaded(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	reload := func(options string) {
		caddytest.Load(t, caddytest.LockConfig(addr, "tcplock 3 {\nlinger 0\n"+options+"\n}", svc.Addr))
	}
	reload("")
	caddytest.LeakCheck(t)
	var at []*net.TCPConn
	for i := range 5 {
		caddytest.DialSend(t, addr, caddytest.Number(i))
		if i < 3 {
			at = append(at, svc.Gets(t, i))
		}
		caddytest.InLine(t, "default", min(i+1, 3), max(0, i-2))
	}
	reload("max_per_client 1")
	for i := range 2 {
		svc.Leave(at[i])
		caddytest.InLine(t, "default", 2-i, 2)
	}
	svc.NoneComes(t, "the client has its share")
	reload("")
	svc.Next(t).Close()
	svc.Next(t).Close()
	svc.Leave(at[2])
	caddytest.InLine(t, "default", 0, 0)
	noClients(t)
}

// A client holds its share while its connection tries a worker that is down, and gives it up
// when the connection is back in line. Its connections are served one by one, in order.
func TestMaxPerClientAndWorkerDown(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.PoolConfig(addr, "max_per_client 1", caddytest.FreeAddr(t), svc.Addr, caddytest.FreeAddr(t)))
	caddytest.LeakCheck(t)
	for i := range 4 {
		caddytest.DialSend(t, addr, caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	for i := range 4 {
		svc.Leave(svc.Gets(t, i))
	}
	caddytest.InLine(t, "default", 0, 0)
	noClients(t)
	caddytest.NeverTwo(t, svc)
}

// noClients makes sure that the lock remembers no client.
func noClients(t *testing.T) {
	t.Helper()
	if n := caddytest.Clients("default"); n != 0 {
		t.Errorf("the lock remembers %d clients, expected none", n)
	}
}
