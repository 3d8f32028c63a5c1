package ending_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Clients of a lock that stands before tls. The service closes its side. A client that stays
// silent loses its slot after linger. Nothing of the reply on its way is lost, although the
// client has sent more than the service has read.
func TestServicesEndShowsThroughTLS(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	reply := bytes.Repeat([]byte("reply "), 800_000)
	svc := caddytest.NewService(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		_, _ = c.Write(reply)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	w := caddytest.Way{Name: "tls", Tls: true}
	addr := w.Serve(t, "tcplock {\nlinger 300ms\n}\ntls", svc.Addr)
	for range 2 {
		client := w.Come(t, addr, "ping")
		caddytest.Send(t, client, strings.Repeat("x", 100_000))
		if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, reply) {
			t.Fatalf("read %d bytes, error %v, expected %d", len(got), err, len(reply))
		}
	}
}

// The same lock, with a client that goes on sending after the service has closed its side:
// tcplock passes on all of it.
func TestHalfClosedThroughTLS(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	w := caddytest.Way{Name: "tls", Tls: true}
	addr := w.Serve(t, "tcplock {\nlinger 1m\n}\ntls", svc.Addr)
	client := w.Come(t, addr, "request")
	conn := svc.Next(t)
	caddytest.Expect(t, conn, "request")
	closesFirst(t, client, conn)
}
