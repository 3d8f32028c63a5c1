//go:build unix

package tcplock_test

import (
	"io"
	"net"
	"testing"
)

// Caddy is told to end while one client is at a worker and two are in line for one that is
// down. Those are refused, and told why; the one at the worker can go on, and then Caddy
// ends. The same with nobody at any worker: it ends at once.
func TestPoolShutdown(t *testing.T) {
	for name, up := range map[string]bool{"one worker is up": true, "all are down": false} {
		t.Run(name, func(t *testing.T) {
			svc, addr := newService(t, nil), freeAddr(t)
			workers := []string{freeAddr(t), freeAddr(t)}
			if up {
				workers[0] = svc.addr
			}
			config, a := withAdmin(t, poolConfig(addr, "drain 1m\nmax_waiting 3\nrefuse {\n"+whySockets(t)+"\n}", workers...))
			p := startCaddy(t, 0, config)
			var holder, conn *net.TCPConn
			come := 2
			if up {
				come++
				holder = plainly(t, addr, number(0)).(*net.TCPConn)
				conn = svc.gets(t, 0)
			}
			answers := make(chan string, 2)
			for i := range 2 {
				client := plainly(t, addr, number(1+i))
				go func() {
					got, _ := io.ReadAll(client)
					answers <- string(got)
				}()
			}
			p.prints(t, "worker cannot be reached, left out")
			eventually(t, "all have come", func() bool {
				now := a.lock(t, "default")
				return now.Held+now.Waiting == come // one of them may be trying a worker
			})
			p.terminate(t)
			for range 2 {
				if got := <-answers; got != "shutdown" {
					t.Errorf("a waiter got %q, expected shutdown", got)
				}
			}
			if up {
				send(t, holder, "still here?")
				expect(t, conn, "still here?")
				svc.leave(conn)
				expectEOF(t, holder)
			}
			p.endsWithin(t, prompt)
		})
	}
}
