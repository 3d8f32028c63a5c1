package relay_test

import (
	"bytes"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A goroutine of a relay panics, while it reads from a client or writes to one. Both sides see the end, the
// slot goes to the next in line, once, and the process goes on.
func TestPanicInRelay(t *testing.T) {
	for _, way := range []string{"from the client", "to the client"} {
		t.Run(way, func(t *testing.T) {
			svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
			caddytest.Load(t, caddytest.RouteConfig(addr, "test_fragile\ntcplock {\nto "+svc.Addr+"\nlinger 0\n}"))
			caddytest.LeakCheck(t)
			first := caddytest.Dial(t, addr)
			atFirst := svc.Next(t)
			second := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 1)
			third := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 2)
			if way == "from the client" {
				caddytest.Send(t, first, fragile)
			} else {
				caddytest.Send(t, atFirst, fragile)
			}
			caddytest.ExpectClosed(t, first)
			caddytest.ExpectClosed(t, atFirst)
			svc.Leave(atFirst)
			atSecond := svc.Next(t)
			svc.NoneComes(t, "the only slot is held")
			caddytest.InLine(t, "default", 1, 1)
			caddytest.Send(t, second, "hello")
			caddytest.Expect(t, atSecond, "hello")
			svc.Leave(atSecond)
			caddytest.ExpectEOF(t, second)
			svc.Leave(svc.Next(t))
			caddytest.ExpectEOF(t, third)
			caddytest.InLine(t, "default", 0, 0)
			if all := caddytest.Status(t, "default").Connections; all[status.ServiceError] != 1 || all[status.Served] != 2 {
				t.Errorf("found %v, expected one service_error and two served", all)
			}
		})
	}
}

// fragile is what breaks a fragileConn.
const fragile = "panic"

// fragileConn is a layer4 handler, and the connection that it hands on.
type fragileConn struct{ net.Conn }

func init() { caddy.RegisterModule(fragileConn{}) }

func (fragileConn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_fragile", New: func() caddy.Module { return new(fragileConn) }}
}

func (fragileConn) Handle(cx *layer4.Connection, next layer4.Handler) error {
	return next.Handle(cx.Wrap(fragileConn{cx.Conn}))
}

func (f fragileConn) Raw() net.Conn { return f.Conn }

func (f fragileConn) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	return n, breakAt(p[:n], err)
}

func (f fragileConn) Write(p []byte) (int, error) {
	_ = breakAt(p, nil)
	return f.Conn.Write(p)
}

func breakAt(p []byte, err error) error {
	if bytes.Contains(p, []byte(fragile)) {
		panic("test")
	}
	return err
}

func (*fragileConn) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}
