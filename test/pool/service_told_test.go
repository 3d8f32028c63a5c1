//go:build unix

package pool_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The events and the metrics of the lock say that a worker is unreachable, and that it is
// reachable again.
func TestWorkerDownIsTold(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	worker, addr := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.PoolConfig(addr, "", worker))
	caddytest.Load(t, config)
	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "hello")
	a.Measures(t, map[string]float64{"worker_failures_total{lock=default slot=1}": 1, "worker_up{lock=default slot=1}": 0})
	if s := a.Lock(t, "default"); s.Workers[0].State != "down" || s.Waiting != 1 {
		t.Errorf("found %+v and %d waiting, expected the worker down and 1", s.Workers[0], s.Waiting)
	}
	caddytest.NewServiceAt(t, worker, caddytest.Echo)
	caddytest.Expect(t, client, "hello")
	client.Close()
	caddytest.Eventually(t, "the worker is up", func() bool {
		e := a.Lock(t, "default").Events
		return len(e) >= 2 && e[0].Event == "worker_up" && e[len(e)-1].Event == "worker_down" && e[0].Worker == worker
	})
	a.Measures(t, map[string]float64{"worker_up{lock=default slot=1}": 1})
}
