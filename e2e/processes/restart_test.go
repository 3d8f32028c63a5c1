//go:build unix

package processes_test

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A service hangs, and its client has closed its side or has gone. An operator asks for a restart
// of the service. The restart comes soon, and the next client is served. This holds as well if the
// client has sent more than the service and the sockets take.
func TestRestartOfHangingServiceWithoutClient(t *testing.T) {
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	const server = `
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
hung = []
while True:
    c, _ = s.accept()
    try:
        word = c.recv(4)
    except OSError:
        continue
    if word == b"hang":
        hung.append(c)
    else:
        c.sendall(word)
        c.close()
`
	for _, way := range []struct {
		name string
		goes func(c *net.TCPConn)
	}{
		{"closes its side", func(c *net.TCPConn) { _ = c.CloseWrite() }},
		{"resets", reset},
		{"resets behind a flood", func(c *net.TCPConn) {
			caddytest.Flood(c, make([]byte, 1<<16))
			reset(c)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			addr := caddytest.FreeAddr(t)
			config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, fmt.Sprintf("tcplock {\nlinger 0\nworkers %s\nservice %s -c `%s` {l4.tcplock.worker_port}\n}",
				caddytest.FreeAddr(t), caddytest.Python, server), "{l4.tcplock.worker}"))
			caddytest.Load(t, config)
			client := caddytest.Dial(t, addr)
			caddytest.Send(t, client, "hang")
			caddytest.Eventually(t, "the client is at the service", func() bool {
				holders := a.Lock(t, "default").Holders
				return len(holders) == 1 && holders[0].State == "connected" && holders[0].BytesIn >= 4
			})
			next := caddytest.Dial(t, addr)
			caddytest.Send(t, next, "next")
			caddytest.InLine(t, "default", 1, 1)
			way.goes(client)
			if resp, body := a.Ask(t, http.MethodPost, "/tcplock/locks/default/restart"); resp.StatusCode != http.StatusOK {
				t.Fatalf("found %s %s, expected 200", resp.Status, body)
			}
			caddytest.Expect(t, next, "next")
			caddytest.ExpectEOF(t, next)
			caddytest.Eventually(t, "the newest events are the cut and the restart", func() bool {
				var found []string
				for _, e := range a.Lock(t, "default").Events {
					if e.Event == "kicked" || e.Event == "restarted" {
						found = append(found, e.Event+" "+e.Reason)
					}
				}
				return slices.Equal(found, []string{"restarted request", "kicked restart"})
			})
		})
	}
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}
