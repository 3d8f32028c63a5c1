package line_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What clients can do to the lock, to each other and to the log: the attacks of
// docs/security.md that no other file has.

// The refuse handlers fail for all clients of a flood. Not each of them has a line in the log.
func TestRefuseHandlersFailLogFlood(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, file := caddytest.FreeAddr(t), filepath.Join(t.TempDir(), "log")
	config := caddytest.LockConfig(addr, "tcplock {\nmax_waiting 0\nrefuse {\nproxy 127.0.0.1:1\n}\n}", svc.Addr)
	caddytest.Load(t, strings.Replace(config, "admin off", "admin off\nlog {\noutput file "+file+"\n}", 1))
	holder := caddytest.DialSend(t, addr, "one")
	caddytest.Expect(t, holder, "one")
	const flood = 400
	start := time.Now()
	for range flood {
		caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	}
	most := 2 * 50 * (int(time.Since(start).Seconds()) + 2) // its end and its error
	var lines int
	caddytest.Eventually(t, "lines are logged", func() bool {
		text, _ := os.ReadFile(file)
		lines = bytes.Count(text, []byte("\n"))
		return lines > 0
	})
	if most += 20; lines > most { // Caddy has some of its own
		t.Errorf("found %d lines for %d connections, expected at most %d", lines, flood, most)
	}
}

// The service has closed its side. The client goes on sending, little by little, or it does not
// read its reply. hold_timeout takes its slot away.
func TestHoldTimeoutEndsStubbornClients(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	endless := func(conn *net.TCPConn) { _, _ = io.Copy(conn, zeros{}) }
	halfClosing := func(conn *net.TCPConn) {
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	}
	for _, attack := range []struct {
		name  string
		serve func(*net.TCPConn)
		send  func(net.Conn) error // again and again
	}{
		{"trickles", halfClosing, func(conn net.Conn) error { _, err := conn.Write([]byte("x")); return err }},
		{"reads nothing", endless, func(net.Conn) error { return nil }},
	} {
		t.Run(attack.name, func(t *testing.T) {
			svc := caddytest.NewService(t, attack.serve)
			addr := caddytest.LockServer(t, "tcplock {\nlinger 5s\nhold_timeout 2s\n}", svc.Addr)
			caddytest.LeakCheck(t)
			attacker := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 0)
			caddytest.Dial(t, addr)
			caddytest.Eventually(t, "the next one is served", func() bool {
				_ = attack.send(attacker)
				_, _, total := svc.Counts()
				return total == 2
			})
			if _, err := io.Copy(io.Discard, attacker); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the attacker's connection is still there")
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// Clients begin a handshake and send no more. If tls stands before tcplock, they never reach
// the lock, and take neither a slot nor a place. If it stands after, hold_timeout ends them.
func TestSilentHandshake(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	w := caddytest.Way{Name: "tls", Tls: true}
	addr := w.Serve(t, "tls\ntcplock {\nmax_waiting 0\n}", svc.Addr)
	for range 5 {
		caddytest.Send(t, caddytest.Dial(t, addr), "\x16\x03\x01")
	}
	client := w.Come(t, addr, "hello")
	caddytest.Expect(t, client, "hello")
	client.Close()
	caddytest.InLine(t, "default", 0, 0)

	addr = w.Serve(t, "tcplock {\nhold_timeout 2s\n}\ntls", svc.Addr)
	silent := caddytest.Dial(t, addr)
	caddytest.Send(t, silent, "\x16\x03\x01")
	caddytest.InLine(t, "default", 1, 0)
	client = w.Come(t, addr, "hello")
	caddytest.Expect(t, client, "hello")
	caddytest.ExpectClosed(t, silent)
}

// A client claims the address of another one. caddy-l4 believes it unless the config rejects
// that. An allow list alone keeps no client out, and tcplock warns of that.
func TestSpoofedProxyHeader(t *testing.T) {
	for _, c := range []struct{ name, options, want string }{
		{"it is allowed", "allow 127.0.0.1/32\nfallback_policy REJECT", "192.0.2.1:1000"},
		{"another one is", "allow 192.0.2.7/32\nfallback_policy REJECT", "127.0.0.1:"},
		{"another one is, but none is rejected", "allow 192.0.2.7/32", "192.0.2.1:1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := caddytest.NewService(t, caddytest.Echo)
			addr := caddytest.FreeAddr(t)
			config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "proxy_protocol {\n"+c.options+"\n}\ntcplock", svc.Addr))
			config, lines := caddytest.Logged(t, config, "")
			caddytest.Load(t, config)
			caddytest.WithHeader(t, addr, "hello")
			caddytest.InLine(t, "default", 1, 0)
			if got := a.Lock(t, "default").Holders[0].Client; !strings.HasPrefix(got, c.want) {
				t.Errorf("found client %s, expected %s", got, c.want)
			}
			warned := slices.ContainsFunc(lines("", 0), func(line map[string]any) bool {
				return strings.Contains(line["msg"].(string), "put a remote_ip matcher on the route")
			})
			if rejects := strings.Contains(c.options, "REJECT"); warned == rejects {
				t.Errorf("found a warning: %t, expected %t", warned, !rejects)
			}
		})
	}
}

// A matcher on the route keeps out all but the proxy that sends headers. A connection with a
// broken header gets no slot, even from there.
func TestMatcherKeepsOthersOut(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.Global(fmt.Sprintf("layer4 {\n%s {\n@balancer remote_ip 127.0.0.1\nroute @balancer {\nproxy_protocol\ntcplock\nproxy %s\n}\n}\n}", addr, svc.Addr)))
	caddytest.Load(t, config)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	stranger, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	caddytest.Send(t, stranger, caddytest.ProxyHeader+"hello")
	caddytest.ExpectClosed(t, stranger)
	for _, broken := range []string{"PROXY TCP4 nonsense\r\nhello", "PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\nhello"} {
		client := caddytest.Dial(t, addr)
		caddytest.Send(t, client, broken)
		caddytest.ExpectClosed(t, client)
	}
	if _, _, total := svc.Counts(); total != 0 || len(a.Lock(t, "default").Events) > 0 {
		t.Errorf("found %d connections at the service, expected none", total)
	}
	client := caddytest.WithHeader(t, addr, "hello")
	caddytest.Expect(t, client, "hello")
	if _, _, total := svc.Counts(); total != 1 {
		t.Errorf("found %d connections at the service, expected 1", total)
	}
}

// Clients with many addresses, and all kinds of ends: the metrics have the same series as
// before, and no address.
func TestMetricsOfManyClients(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, caddytest.AllowProxy+"\ntcplock {\nmax_waiting 1\nmax_waiting_per_client 1\n}", svc.Addr))
	caddytest.Load(t, config)
	series := func() (n int) {
		_, body := a.Ask(t, "GET", "/metrics")
		if strings.Contains(body, "192.0.2.") {
			t.Error("found a client's address in the metrics")
		}
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "caddy_tcplock_") {
				n++
			}
		}
		return n
	}
	before := series()
	for i := range 60 {
		client := caddytest.Proxied(t, fmt.Sprintf("192.0.2.%d", i+1), addr, "hello")
		if i%2 == 0 {
			_ = client.(*net.TCPConn).SetLinger(0)
			client.Close()
		}
	}
	caddytest.Eventually(t, "a client was refused", func() bool { return a.Lock(t, "default").Connections["refused_full"] > 0 })
	if after := series(); before == 0 || after != before {
		t.Errorf("found %d series, expected %d as before", after, before)
	}
}
