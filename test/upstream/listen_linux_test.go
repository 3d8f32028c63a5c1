package upstream_test

import (
	"context"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// At a reload, Caddy opens a second socket at the address (SO_REUSEPORT), and then closes the first
// one. Connections that the first has not accepted yet are reset. Here none is accepted before that,
// which a busy machine does by itself.
func TestReloadResetsAcceptQueue(t *testing.T) {
	network, err := caddy.ParseNetworkAddress(freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		ln, err := network.Listen(context.Background(), 0, net.ListenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		return ln.(net.Listener)
	}
	before, after := listen(), listen() // of the config in force, and of the next one
	defer after.Close()
	const comers = 100
	var conns []net.Conn
	for range comers {
		conns = append(conns, dial(t, network.JoinHostPort(0)))
	}
	before.Close()
	go func() {
		for {
			conn, err := after.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, len(line))
				n, _ := conn.Read(buf)
				_, _ = conn.Write(buf[:n])
			}()
		}
	}()
	lost := 0
	for _, conn := range conns {
		if !answered(conn, patience) {
			lost++
		}
	}
	t.Logf("%d of %d connections were lost", lost, comers)
	if lost == 0 {
		mended(t, "Caddy (or net.ipv4.tcp_migrate_req is 1 here)", "no lost connection",
			"Guard.Stopping of internal/listen with TestPlainListenerLosesLittle, and the part about reloads in docs/listen.md")
	}
}
