package upstream_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const clients = 10

// The proxy counts the connections to an upstream up, and never down. Ten clients come, each when the
// one before is done. A limit of one connection at a time should serve all.
func TestMaxConnectionsNeverFalls(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	for name, options := range map[string]string{
		"max_connections":            "upstream {\ndial %s\nmax_connections 1\n}",
		"unhealthy_connection_count": "upstream %s\nunhealthy_connection_count 1",
	} {
		t.Run(name, func(t *testing.T) {
			svc, _ := service(t)
			addr := freeAddr(t)
			mustLoad(t, fmt.Sprintf("%s {\nroute {\nproxy {\n"+options+"\n}\n}\n}", addr, svc))
			served := 0
			for served < clients && comes(t, addr) {
				served++
			}
			t.Logf("%d of %d clients were served", served, clients)
			if served > 1 {
				mended(t, "caddy-l4", fmt.Sprintf("%d of %d clients served", served, clients), "what README.md says of max_connections")
			}
		})
	}
}

// comes reports whether a client is served. It tries for half a second, because the proxy may not be
// done with the client before.
func comes(t *testing.T, addr string) bool {
	t.Helper()
	for end := time.Now().Add(time.Second / 2); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		conn := dial(t, addr)
		ok := answered(conn, patience)
		conn.Close()
		if ok {
			return true
		}
	}
	return false
}

// The proxy looks at the limit before it dials an upstream, and counts a connection afterwards. Clients
// that come together pass a limit of one. Here the dial takes long, since the upstream does not answer the
// handshake of TLS.
func TestMaxConnectionsLetsCrowdThrough(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := freeAddr(t)
	mustLoad(t, fmt.Sprintf("%s {\nroute {\nproxy {\nupstream {\ndial %s\ntls\nmax_connections 1\n}\n}\n}\n}", addr, ln.Addr()))
	for range clients {
		dial(t, addr)
	}
	came := 0
	for ; came < clients; came++ {
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Second))
		conn, err := ln.Accept()
		if err != nil {
			break
		}
		defer conn.Close()
	}
	t.Logf("%d of %d connections were at the upstream at once", came, clients)
	if came <= 1 {
		mended(t, "caddy-l4", "one connection at the upstream")
	}
}

// The policy least_conn reads the same counter. A connection stays at one of two upstreams. Nine short
// ones come after it, one by one. All should go to the other upstream, which has none.
func TestLeastConnCountsThePast(t *testing.T) {
	var upstreams [2]net.Listener
	came := make(chan int, 2*clients)
	for i := range upstreams {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		upstreams[i] = ln
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				came <- i
				go func() { // until the client closes
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
	}
	addr := freeAddr(t)
	mustLoad(t, fmt.Sprintf("%s {\nroute {\nproxy {\nupstream %s\nupstream %s\nlb_policy least_conn\n}\n}\n}",
		addr, upstreams[0].Addr(), upstreams[1].Addr()))
	stays := dial(t, addr)
	if !answered(stays, patience) {
		t.Fatal("found no answer")
	}
	busy, wrong := <-came, 0
	for range clients - 1 {
		conn := dial(t, addr)
		if !answered(conn, patience) {
			t.Fatal("found no answer")
		}
		if <-came == busy {
			wrong++
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	t.Logf("%d of %d connections went to the upstream that has one", wrong, clients-1)
	if wrong == 0 {
		mended(t, "caddy-l4", "least_conn to count open connections")
	}
}

// proxy_protocol believes clients that its options should keep out. The client here is 127.0.0.1. It
// says that it is 192.0.2.1. The proxy tells the service which client it sees.
func TestProxyProtocolBelievesAll(t *testing.T) {
	const forged = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n"
	const elsewhere = "the warning of internal/place (warnOfHeaders), TestSpoofedProxyHeader, and the advice in docs/security.md"
	for name, c := range map[string]struct{ options, believed string }{
		// Not in the list, so the default IGNORE should hold: "address from PROXY header, but accept connection".
		"allow":           {"allow 192.0.2.7/32", "PROXY TCP4 192.0.2.1 "},
		"fallback SKIP":   {"fallback_policy SKIP", "PROXY TCP4 192.0.2.1 "},
		"fallback REJECT": {"allow 192.0.2.7/32\nfallback_policy REJECT", "PROXY TCP4 127.0.0.1 "},
	} {
		t.Run(name, func(t *testing.T) {
			svc, lines := service(t)
			addr := freeAddr(t)
			mustLoad(t, fmt.Sprintf("%s {\nroute {\nproxy_protocol {\n%s\n}\nproxy {\nproxy_protocol v1\nupstream %s\n}\n}\n}", addr, c.options, svc))
			conn := dial(t, addr)
			if _, err := io.WriteString(conn, forged+line); err != nil {
				t.Fatal(err)
			}
			_, err := bufio.NewReader(conn).ReadString('\n')
			select {
			case got := <-lines:
				t.Logf("the service was told %q", got)
				if !strings.HasPrefix(got, c.believed) {
					mended(t, "caddy-l4", fmt.Sprintf("%q", got), elsewhere)
				}
			default:
				mended(t, "caddy-l4", fmt.Sprintf("no connection at the service, error %v", err), elsewhere)
			}
		})
	}
}
