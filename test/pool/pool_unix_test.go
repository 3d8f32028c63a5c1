//go:build unix

package pool_test

import (
	"io"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Caddy ends while one client is at a worker and two are in line for a worker that is
// down. The two are refused with the reason. The first can go on, and then Caddy ends. Without
// a holder, Caddy ends at once.
func TestPoolShutdown(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	for name, up := range map[string]bool{"one worker is up": true, "all are down": false} {
		t.Run(name, func(t *testing.T) {
			svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
			workers := []string{caddytest.FreeAddr(t), caddytest.FreeAddr(t)}
			if up {
				workers[0] = svc.Addr
			}
			config, a := caddytest.WithAdmin(t, caddytest.PoolConfig(addr, "drain 1m\nmax_waiting 3\nrefuse {\n"+caddytest.WhySockets(t)+"\n}", workers...))
			p := caddytest.StartCaddy(t, 0, config)
			var holder, conn *net.TCPConn
			come := 2
			if up {
				come++
				holder = caddytest.DialSend(t, addr, caddytest.Number(0)).(*net.TCPConn)
				conn = svc.Gets(t, 0)
			}
			answers := make(chan string, 2)
			for i := range 2 {
				client := caddytest.DialSend(t, addr, caddytest.Number(1+i))
				go func() {
					got, _ := io.ReadAll(client)
					answers <- string(got)
				}()
			}
			p.Prints(t, "worker cannot be reached, left out")
			caddytest.Eventually(t, "all have come", func() bool {
				now := a.Lock(t, "default")
				return now.Held+now.Waiting == come // one of them may be trying a worker
			})
			p.Terminate(t)
			for range 2 {
				if got := <-answers; got != "shutdown" {
					t.Errorf("a waiter got %q, expected shutdown", got)
				}
			}
			if up {
				caddytest.Send(t, holder, "still here?")
				caddytest.Expect(t, conn, "still here?")
				svc.Leave(conn)
				caddytest.ExpectEOF(t, holder)
			}
			p.EndsWithin(t, caddytest.Prompt)
		})
	}
}
