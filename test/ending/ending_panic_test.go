package ending_test

import (
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A connection of a handler before tcplock panics when the lock checks whether a waiter has
// gone. The waiter leaves the line, or the slot that it gets in the same moment. The other
// clients are served.
func TestPanicInLine(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	for name, granted := range map[string]bool{"in line": false, "with a slot": true} {
		t.Run(name, func(t *testing.T) {
			svc := caddytest.NewService(t, caddytest.Echo)
			addr := caddytest.LockServer(t, "test_brittle\ntcplock", svc.Addr)
			caddytest.LeakCheck(t)
			holder := caddytest.Dial(t, addr)
			caddytest.Send(t, holder, "holder")
			caddytest.Expect(t, holder, "holder")
			gone := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 1)
			waiter := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 2)
			_ = gone.CloseWrite()
			<-looks
			if granted {
				holder.Close()
				caddytest.InLine(t, "default", 1, 1)
			}
			looks <- struct{}{}
			caddytest.ExpectClosed(t, gone)
			if !granted {
				caddytest.InLine(t, "default", 1, 1)
				holder.Close()
			}
			caddytest.Send(t, waiter, "waiter")
			caddytest.Expect(t, waiter, "waiter")
			waiter.Close()
			caddytest.InLine(t, "default", 0, 0)
		})
	}
}

// looks gets a value when the lock checks a client. The check goes on when the test sends one back.
var looks = make(chan struct{})

// brittle is a layer4 handler, and the connection that it hands on. Its Read panics when the
// lock checks whether the client has sent something, which reads one byte.
type brittle struct{ net.Conn }

func init() { caddy.RegisterModule(brittle{}) }

func (brittle) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_brittle", New: func() caddy.Module { return new(brittle) }}
}

func (brittle) Handle(cx *layer4.Connection, next layer4.Handler) error {
	return next.Handle(cx.Wrap(brittle{cx.Conn}))
}

func (b brittle) Raw() net.Conn { return b.Conn }

func (b brittle) Read(p []byte) (int, error) {
	if len(p) == 1 {
		looks <- struct{}{}
		<-looks
		panic("test")
	}
	return b.Conn.Read(p)
}

func (*brittle) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}
