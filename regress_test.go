package tcplock_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// What once went wrong, a test for each that belongs to no other file.

// Each handler looked at all servers of the config, and a thousand took seconds.
func TestLockCostsTheSameAmongMany(t *testing.T) {
	allocations := func(locks int) uint64 {
		var servers strings.Builder
		for i := range locks {
			fmt.Fprintf(&servers, "127.0.0.1:%d {\nroute {\ntcplock {\nname lock%d\n}\nproxy 127.0.0.1:1\n}\n}\n", 1000+i, i)
		}
		cfg := config(t, global("layer4 {\n"+servers.String()+"}"))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := caddy.Validate(cfg); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	few, many := allocations(100), allocations(800)
	if many > 16*few {
		t.Errorf("found %d allocations for 800 locks, and %d for 100, expected them to grow with the number of locks", many, few)
	}
}

// A hook emits an event of the name that Caddy gives to its own when a config has started.
// The config it belongs to has been replaced meanwhile, and does not come back for that.
func TestEmitStartedChangesNothing(t *testing.T) {
	svc := newService(t, nil)
	addr := hookServer(t, 1, "on activate {\nemit held_up\nemit started\n}", svc.addr)
	conn := dial(t, addr)
	hook := caughtHook(t, "held_up")
	load(t, lockConfig(addr, "tcplock 3 {\nlinger 0\n}", svc.addr))
	hook.answer <- nil
	caughtHook(t, "started").answer <- nil
	svc.next(t)
	if slots, _, _, _ := tcplock.LockStats("default"); slots != 3 {
		t.Errorf("found %d slots, expected 3", slots)
	}
	conn.Close()
}

// Clients of a lock that stands before tls. The service closes its side: the client that
// stays, silent, loses its slot after linger, and nothing of the reply that is on its way
// is lost, although it has sent more than the service has read.
func TestServicesEndShowsThroughTLS(t *testing.T) {
	reply := bytes.Repeat([]byte("reply "), 800_000)
	svc := newService(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		_, _ = c.Write(reply)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	w := way{name: "tls", tls: true}
	addr := w.serve(t, "tcplock {\nlinger 300ms\n}\ntls", svc.addr)
	for range 2 {
		client := w.come(t, addr, "ping")
		send(t, client, strings.Repeat("x", 100_000))
		if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, reply) {
			t.Fatalf("read %d bytes, error %v, expected %d", len(got), err, len(reply))
		}
	}
}

// The same lock, with a client that goes on sending after the service has closed its side:
// it is heard out.
func TestHalfClosedThroughTLS(t *testing.T) {
	svc := newService(t, nil)
	w := way{name: "tls", tls: true}
	addr := w.serve(t, "tcplock {\nlinger 1m\n}\ntls", svc.addr)
	client := w.come(t, addr, "request")
	conn := svc.next(t)
	expect(t, conn, "request")
	send(t, conn, "reply")
	_ = conn.CloseWrite()
	expect(t, client, "reply")
	expectEOF(t, client)
	send(t, client, "thanks")
	client.closeWrite()
	expect(t, conn, "thanks")
	expectEOF(t, conn)
}

// The file descriptors are used up by the line. Who comes then still gets to the refuse
// handlers, which need one descriptor more.
func TestRefuseHandlersAtDescriptorLimit(t *testing.T) {
	t.Cleanup(tcplock.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := newService(t, nil)
	busy := newService(t, answerBusy)
	addr := lockServer(t, "tcplock {\nlinger 0\nrefuse {\nproxy "+busy.addr+"\n}\n}", svc.addr)
	for range 9 {
		dial(t, addr)
	}
	inLine(t, "default", 1, 8)
	expectRefused(t, addr, "busy!")
}

// A client whose address is a path that it chose itself: neither an argument nor the
// environment of a command shows it.
func TestChosenAddressReachesNoCommand(t *testing.T) {
	svc := newService(t, echo)
	addr := lockServer(t, "proxy_protocol {\nallow 127.0.0.1/32\n}\ntcplock {\nlinger 0\non activate exec sh -c `test \"$TCPLOCK_CLIENT $1\" = \"unix unix\"` x {l4.tcplock.client}\n}", svc.addr)
	client := dial(t, addr)
	path := make([]byte, 216)
	copy(path, "--upload-pack=evil; $(id)\n\x1b[2J")
	copy(path[108:], "dst")
	send(t, client, fmt.Sprintf("\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8%shi", path))
	expect(t, client, "hi")
}

// A variable of the config's own has the lock's name. Placeholders work all the same.
func TestVariableNamedTcplock(t *testing.T) {
	svc := newService(t, echo)
	addr := lockServer(t, "tcplock {\nlinger 0\n}\nvars tcplock x\nvars y {l4.tcplock.slot}", svc.addr)
	client := dial(t, addr)
	send(t, client, "hi")
	expect(t, client, "hi")
}
