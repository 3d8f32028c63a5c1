package relay_test

import (
	"bufio"
	"net"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The service learns the address of the client from a PROXY header, before all that the client says: its own
// address, or that of a PROXY header which came before tcplock. A client of a unix socket has no address.
func TestProxyHeader(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		for _, way := range []string{"plain", "behind a proxy", "unix"} {
			t.Run(version+", "+way, func(t *testing.T) {
				svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
				before, listen := "", addr
				switch way {
				case "behind a proxy":
					before = caddytest.AllowProxy + "\n"
				case "unix":
					addr = caddytest.Socket(t)
					listen = "unix/" + addr
				}
				caddytest.Load(t, caddytest.RouteConfig(listen, before+"tcplock {\nto "+svc.Addr+"\nproxy_protocol "+version+"\n}"))
				caddytest.LeakCheck(t)
				var client net.Conn
				switch way {
				case "plain":
					client = caddytest.DialSend(t, addr, "hello")
				case "behind a proxy":
					client = caddytest.WithHeader(t, addr, "hello")
				default:
					var err error
					if client, err = net.Dial("unix", addr); err != nil {
						t.Fatal(err)
					}
					caddytest.Send(t, client, "hello")
				}
				defer client.Close()
				conn := svc.Next(t)
				r := bufio.NewReader(conn)
				header, err := proxyproto.Read(r)
				if err != nil {
					t.Fatal(err)
				}
				want, wantTo := client.LocalAddr().String(), client.RemoteAddr().String()
				if way == "behind a proxy" {
					want, wantTo = "192.0.2.1:1000", "192.0.2.2:9100"
				}
				if way == "unix" {
					if header.SourceAddr != nil || header.Command.IsProxy() && header.Version == 2 {
						t.Errorf("found %+v, expected no address", header)
					}
				} else if header.SourceAddr.String() != want || header.DestinationAddr.String() != wantTo || header.Version != version[1]-'0' {
					t.Errorf("found %+v, expected %s from %s to %s", header, version, want, wantTo)
				}
				hello := make([]byte, 5)
				if _, err := r.Read(hello); err != nil || string(hello) != "hello" {
					t.Errorf("found %q, %v, expected hello", hello, err)
				}
				svc.Leave(conn)
				caddytest.ExpectEOF(t, client)
			})
		}
	}
}
