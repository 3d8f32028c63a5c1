package tcplock_test

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
)

// What clients can do to the lock, to each other and to the log: the attacks of
// docs/security.md that no other file has.

// The refuse handlers fail, for everybody in a flood. Not each of them has a line in the
// log.
func TestRefuseHandlersFailLogFlood(t *testing.T) {
	svc := newService(t, echo)
	addr, file := freeAddr(t), filepath.Join(t.TempDir(), "log")
	config := lockConfig(addr, "tcplock {\nmax_waiting 0\nrefuse {\nproxy 127.0.0.1:1\n}\n}", svc.addr)
	load(t, strings.Replace(config, "admin off", "admin off\nlog {\noutput file "+file+"\n}", 1))
	holder := plainly(t, addr, "one")
	expect(t, holder, "one")
	const flood = 400
	start := time.Now()
	for range flood {
		expectClosed(t, dial(t, addr))
	}
	most := 2 * 50 * (int(time.Since(start).Seconds()) + 2) // its end and its error
	var lines int
	eventually(t, "lines are logged", func() bool {
		text, _ := os.ReadFile(file)
		lines = bytes.Count(text, []byte("\n"))
		return lines > 0
	})
	if most += 20; lines > most { // Caddy has some of its own
		t.Errorf("found %d lines for %d connections, expected at most %d", lines, flood, most)
	}
}

// The service has closed its side, and the client goes on sending, little by little, or
// it does not read its reply. hold_timeout takes its slot away.
func TestHoldTimeoutEndsStubbornClients(t *testing.T) {
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
			svc := newService(t, attack.serve)
			addr := lockServer(t, "tcplock {\nlinger 5s\nhold_timeout 2s\n}", svc.addr)
			leakCheck(t)
			attacker := dial(t, addr)
			inLine(t, "default", 1, 0)
			dial(t, addr)
			eventually(t, "the next one is served", func() bool {
				_ = attack.send(attacker)
				_, _, total := svc.counts()
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

// Clients that begin a handshake and say no more. Where tls stands before tcplock they are
// no business of the lock's, and take neither a slot nor a place; where it stands after,
// hold_timeout ends them.
func TestSilentHandshake(t *testing.T) {
	svc := newService(t, echo)
	w := way{name: "tls", tls: true}
	addr := w.serve(t, "tls\ntcplock {\nmax_waiting 0\n}", svc.addr)
	for range 5 {
		send(t, dial(t, addr), "\x16\x03\x01")
	}
	client := w.come(t, addr, "hello")
	expect(t, client, "hello")
	client.Close()
	inLine(t, "default", 0, 0)

	addr = w.serve(t, "tcplock {\nhold_timeout 2s\n}\ntls", svc.addr)
	silent := dial(t, addr)
	send(t, silent, "\x16\x03\x01")
	inLine(t, "default", 1, 0)
	client = w.come(t, addr, "hello")
	expect(t, client, "hello")
	expectClosed(t, silent)
}

// A client claims to be somebody else. It is believed unless the config rejects that: in
// caddy-l4, an allow list alone keeps nobody out, of which tcplock warns.
func TestSpoofedProxyHeader(t *testing.T) {
	for _, c := range []struct{ name, options, want string }{
		{"it is allowed", "allow 127.0.0.1/32\nfallback_policy REJECT", "192.0.2.1:1000"},
		{"another one is", "allow 192.0.2.7/32\nfallback_policy REJECT", "127.0.0.1:"},
		{"another one is, but nobody is rejected", "allow 192.0.2.7/32", "192.0.2.1:1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := newService(t, echo)
			addr := freeAddr(t)
			config, a := withAdmin(t, lockConfig(addr, "proxy_protocol {\n"+c.options+"\n}\ntcplock", svc.addr))
			config, lines := logged(t, config, "")
			load(t, config)
			withHeader(t, addr, "hello")
			inLine(t, "default", 1, 0)
			if got := a.lock(t, "default").Holders[0].Client; !strings.HasPrefix(got, c.want) {
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

// A matcher on the route keeps out all but the proxy that sends headers. A header that is
// broken gets no slot, even from there.
func TestMatcherKeepsOthersOut(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, a := withAdmin(t, global(fmt.Sprintf("layer4 {\n%s {\n@balancer remote_ip 127.0.0.1\nroute @balancer {\nproxy_protocol\ntcplock\nproxy %s\n}\n}\n}", addr, svc.addr)))
	load(t, config)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	stranger, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	send(t, stranger, proxyHeader+"hello")
	expectClosed(t, stranger)
	for _, broken := range []string{"PROXY TCP4 nonsense\r\nhello", "PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\nhello"} {
		client := dial(t, addr)
		send(t, client, broken)
		expectClosed(t, client)
	}
	if _, _, total := svc.counts(); total != 0 || len(a.lock(t, "default").Events) > 0 {
		t.Errorf("found %d connections at the service, expected none", total)
	}
	client := withHeader(t, addr, "hello")
	expect(t, client, "hello")
	if _, _, total := svc.counts(); total != 1 {
		t.Errorf("found %d connections at the service, expected 1", total)
	}
}

// Clients with many addresses, and all kinds of ends: the metrics have the series that they
// had before, and no address.
func TestMetricsOfManyClients(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, allowProxy+"\ntcplock {\nmax_waiting 1\nmax_waiting_per_client 1\n}", svc.addr))
	load(t, config)
	series := func() (n int) {
		_, body := a.ask(t, "GET", "/metrics")
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
		client := proxied(t, fmt.Sprintf("192.0.2.%d", i+1), addr, "hello")
		if i%2 == 0 {
			_ = client.(*net.TCPConn).SetLinger(0)
			client.Close()
		}
	}
	eventually(t, "somebody was refused", func() bool { return a.lock(t, "default").Connections["refused_full"] > 0 })
	if after := series(); before == 0 || after != before {
		t.Errorf("found %d series, expected %d as before", after, before)
	}
}
