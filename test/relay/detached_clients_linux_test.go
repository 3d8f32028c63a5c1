package relay_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// What a client does while it waits.
func TestClientsInLine(t *testing.T) {
	for name, test := range map[string]struct {
		options string
		act     func(t *testing.T, client *net.TCPConn)
		stays   bool // in line
		gets    string
	}{
		"says nothing":       {"", func(*testing.T, *net.TCPConn) {}, true, ""},
		"sends":              {"", func(t *testing.T, c *net.TCPConn) { caddytest.Send(t, c, "job") }, true, "job"},
		"closes":             {"", func(_ *testing.T, c *net.TCPConn) { c.Close() }, false, ""},
		"half-closes":        {"", func(_ *testing.T, c *net.TCPConn) { _ = c.CloseWrite() }, false, ""},
		"sends and closes":   {"", func(t *testing.T, c *net.TCPConn) { caddytest.Send(t, c, "job"); c.Close() }, true, "job"},
		"sends and resets":   {"", func(t *testing.T, c *net.TCPConn) { caddytest.Send(t, c, "job"); reset(c) }, false, ""},
		"sends, half-closes": {"", func(t *testing.T, c *net.TCPConn) { caddytest.Send(t, c, "job"); _ = c.CloseWrite() }, true, "job"},
		"sends, half-closes, is dropped": {"half_closed drop", func(t *testing.T, c *net.TCPConn) {
			caddytest.Send(t, c, "job")
			_ = c.CloseWrite()
		}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
			caddytest.Load(t, config(addr, 1, test.options, svc.Addr))
			caddytest.LeakCheck(t)
			first := caddytest.Dial(t, addr)
			at := svc.Next(t)
			client := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 1)
			test.act(t, client)
			last := caddytest.Dial(t, addr)
			if !test.stays {
				caddytest.InLine(t, "default", 1, 1)
			} else {
				caddytest.InLine(t, "default", 1, 2)
			}
			svc.Leave(at)
			caddytest.ExpectEOF(t, first)
			if test.stays {
				at = svc.Next(t)
				caddytest.Expect(t, at, test.gets)
				svc.Leave(at)
			}
			svc.Leave(svc.Next(t))
			caddytest.ExpectEOF(t, last)
			caddytest.InLine(t, "default", 0, 0)
			if n := caddytest.Status(t, "default").Connections[status.ClientGone]; (n == 0) != test.stays {
				t.Errorf("found %d gone", n)
			}
		})
	}
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

// A client has sent its job and closed its side, which is kept. Later it resets, and that is seen.
func TestHalfClosedClientResets(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", svc.Addr))
	caddytest.LeakCheck(t)
	caddytest.Dial(t, addr)
	at := svc.Next(t)
	client := caddytest.DialSend(t, addr, "job").(*net.TCPConn)
	caddytest.InLine(t, "default", 1, 1)
	_ = client.CloseWrite()
	canary := caddytest.Dial(t, addr) // when it is seen to have gone, so is the other's FIN
	caddytest.InLine(t, "default", 1, 2)
	canary.Close()
	caddytest.InLine(t, "default", 1, 1)
	reset(client)
	caddytest.InLine(t, "default", 1, 0)
	svc.Leave(at)
	caddytest.InLine(t, "default", 0, 0)
	if n := caddytest.Status(t, "default").Connections[status.ClientGone]; n != 2 {
		t.Errorf("found %d gone, expected 2", n)
	}
}

// Both sides speak as they like: the service first, and the client more than once. The end of each comes through.
func TestBothSidesSpeak(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.RouteConfig(addr, "tcplock {\nto "+svc.Addr+"\n}"))
	caddytest.LeakCheck(t)
	for waits := range 2 { // with a slot at once, and after the line
		t.Run(fmt.Sprint(waits, " before it"), func(t *testing.T) {
			var first, at *net.TCPConn
			for range waits {
				first = caddytest.Dial(t, addr)
				at = svc.Next(t)
			}
			client := caddytest.DialSend(t, addr, "early")
			caddytest.InLine(t, "default", 1, waits)
			if first != nil {
				first.Close()
				svc.Leave(at)
			}
			at = svc.Next(t)
			caddytest.Send(t, at, "welcome")
			caddytest.Expect(t, client, "welcome")
			caddytest.Expect(t, at, "early")
			for range 3 {
				caddytest.Send(t, client, "more")
				caddytest.Expect(t, at, "more")
				caddytest.Send(t, at, "answer")
				caddytest.Expect(t, client, "answer")
			}
			_ = client.(*net.TCPConn).CloseWrite()
			caddytest.ExpectEOF(t, at)
			caddytest.Send(t, at, "last")
			svc.Leave(at)
			caddytest.Expect(t, client, "last")
			caddytest.ExpectEOF(t, client)
			client.Close()
			caddytest.InLine(t, "default", 0, 0)
		})
	}
}

// Refuse handlers see the variables and the placeholders of the connection, whichever way it was refused.
func TestRefuseHandlersSeeVariables(t *testing.T) {
	for name, options := range map[string]string{status.RefusedFull: "max_waiting 0", status.WaitTimeout: "wait_timeout 1ns"} {
		for _, before := range []string{"", "test_fragile\n"} {
			t.Run(name+before, func(t *testing.T) {
				svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
				caddytest.Load(t, caddytest.RouteConfig(addr, before+"vars color red\ntcplock {\nto "+svc.Addr+"\nlinger 0\n"+options+"\nrefuse {\nvars shade dark\ntest_tell_vars\n}\n}"))
				caddytest.LeakCheck(t)
				caddytest.Dial(t, addr)
				at := svc.Next(t)
				client := caddytest.Dial(t, addr)
				caddytest.Expect(t, client, fmt.Sprintf("red dark %s %s %s", name, client.LocalAddr(), addr))
				caddytest.ExpectEOF(t, client)
				svc.Leave(at)
				caddytest.InLine(t, "default", 0, 0)
			})
		}
	}
}

// varsTeller is test_tell_vars, a refuse handler that sends what it sees of the connection.
type varsTeller struct{}

func init() { caddy.RegisterModule(varsTeller{}) }

func (varsTeller) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_tell_vars", New: func() caddy.Module { return new(varsTeller) }}
}

func (varsTeller) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (varsTeller) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	_, err := io.WriteString(cx, fmt.Sprint(cx.GetVar("color"), " ", cx.GetVar("shade"), " ")+
		cx.Replacer().ReplaceAll("{l4.tcplock.reason} {l4.conn.remote_addr} {l4.conn.local_addr}", ""))
	return err
}
