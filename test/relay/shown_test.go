package relay_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The admin API, the log and the metrics show to which address a connection has gone, how long it took to
// connect, and why a try failed.
func TestConnectingIsShown(t *testing.T) {
	addr, service := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddyfile, lines := caddytest.Logged(t, config(addr, 2, "", service), "")
	caddyfile, a := caddytest.WithAdmin(t, caddyfile)
	caddytest.Load(t, caddyfile)
	a.Measures(t, map[string]float64{"connect_errors_total{kind=refused lock=default}": 0, "connect_seconds{lock=default}": 0})
	client := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 0, 1)
	svc := caddytest.NewServiceAt(t, service, nil)
	conn := svc.Next(t)
	caddytest.InLine(t, "default", 1, 0)
	caddytest.Eventually(t, "the holder to be connected", func() bool { // the service may see the connection first
		return a.Lock(t, "default").Holders[0].State == status.StateConnected
	})
	if h := a.Lock(t, "default").Holders[0]; h.Worker != service || h.ConnectSeconds <= 0 || h.ConnectSeconds > 5 {
		t.Errorf("found %+v, expected the service's address and the time to connect", h)
	}
	svc.Leave(conn)
	caddytest.ExpectEOF(t, client)
	client.Close()
	line := lines(".access", 1)[0]
	if took, _ := line["connect"].(float64); line["worker"] != service || line["outcome"] != "served" || took <= 0 || took > 5 {
		t.Errorf("found %v, expected served, the service's address, and the time to connect", line)
	}
	a.Measures(t, map[string]float64{"worker_up{lock=default slot=0}": 1, "connect_seconds{lock=default}": 1})
	got := a.Scrape(t)
	if refused, failures := got["connect_errors_total{kind=refused lock=default}"], got["worker_failures_total{lock=default slot=0}"]; refused == 0 || refused != failures {
		t.Errorf("found %v tries that were refused and %v failures, expected as many, and not none", refused, failures)
	}
}
