package operators_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The metrics say what the service and the clients saw. Totals survive a reload that changes
// the handler and adds a lock, and end with their lock.
func TestMetrics(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, second := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	route := `tcplock {
		max_waiting 1
		name one
		on activate test_call
		on release exec false
	}`
	var broken atomic.Bool
	call := func(hook.Moment) error {
		if broken.Load() {
			return errors.New("test")
		}
		return nil
	}
	caddytest.OnCall(call)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, route, svc.Addr))
	caddytest.Load(t, config)
	a.Measures(t, map[string]float64{
		"slots{lock=one}": 1,
		"held{lock=one}":  0,
		"connections_total{lock=one outcome=served}":              0,
		"connections_total{lock=one outcome=refused_full}":        0,
		"hook_runs_total{lock=one moment=activate result=failed}": 0,
		"wait_seconds{lock=one}":                                  0,
		"events_dropped_total{lock=one}":                          0,
	})

	holder := caddytest.Dial(t, addr)
	caddytest.Send(t, holder, "one")
	caddytest.Expect(t, holder, "one")
	waiter := caddytest.Dial(t, addr)
	caddytest.Send(t, waiter, "two")
	caddytest.InLine(t, "one", 1, 1)
	caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	if v := a.Scrape(t)["oldest_wait_seconds{lock=one}"]; v <= 0 || v > caddytest.Patience.Seconds() {
		t.Errorf("found oldest wait %v, expected it to be since the waiter came", v)
	}
	during := map[string]float64{
		"held{lock=one}":    1,
		"waiting{lock=one}": 1,
		"paused{lock=one}":  0,
		"connections_total{lock=one outcome=refused_full}": 1,
		"connections_total{lock=one outcome=served}":       0,
		"wait_seconds{lock=one}":                           1,
		"hold_seconds{lock=one}":                           0,
	}
	a.Measures(t, during)

	two := caddytest.Global(fmt.Sprintf(`layer4 {
		%s {
			route {
				%s
				proxy %s
			}
		}
		%s {
			route {
				tcplock 1 {
					name two
				}
				proxy %[3]s
			}
		}
	}`, addr, route, svc.Addr, second))
	caddytest.Load(t, a.In(two))
	during["slots{lock=two}"] = 1
	a.Measures(t, during)
	holder.Close()
	caddytest.Expect(t, waiter, "two")
	waiter.Close()
	a.Measures(t, map[string]float64{
		"held{lock=one}": 0,
		"connections_total{lock=one outcome=served}":              2,
		"wait_seconds{lock=one}":                                  2,
		"hold_seconds{lock=one}":                                  2,
		"hook_seconds{lock=one moment=activate}":                  2,
		"hook_runs_total{lock=one moment=activate result=ok}":     2,
		"hook_runs_total{lock=one moment=release result=failed}":  2,
		"hook_runs_total{lock=one moment=release result=ok}":      0,
		"hook_runs_total{lock=one moment=activate result=failed}": 0,
	})
	broken.Store(true)
	caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	a.Measures(t, map[string]float64{"connections_total{lock=one outcome=hook_failed}": 1, "hold_seconds{lock=one}": 2})

	caddytest.Load(t, a.In(caddytest.LockConfig(second, "tcplock 1 {\nname two\n}", svc.Addr)))
	caddytest.Eventually(t, "the metrics of a lock that has gone are gone", func() bool {
		_, there := a.Scrape(t)["slots{lock=one}"]
		return !there
	})
}

// Prometheus gets native histograms if it asks for them, and classic ones always.
func TestMetricsNativeHistogram(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock", svc.Addr))
	caddytest.Load(t, config)
	c := caddytest.Dial(t, addr)
	caddytest.Send(t, c, "x")
	caddytest.Expect(t, c, "x")
	c.Close()
	a.Measures(t, map[string]float64{"hold_seconds{lock=default}": 1})
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+a.Addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	resp := caddytest.Answer(t, http.DefaultClient, req)
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	decoder := expfmt.NewDecoder(&body, expfmt.ResponseFormat(resp.Header))
	for {
		var family dto.MetricFamily
		if err := decoder.Decode(&family); err != nil {
			t.Fatalf("found no hold_seconds: %v", err)
		}
		if family.GetName() != "caddy_tcplock_hold_seconds" {
			continue
		}
		h := family.Metric[0].Histogram
		if h.GetSchema() == 0 && len(h.PositiveSpan) == 0 || len(h.Bucket) == 0 {
			t.Errorf("found %v, expected native and classic buckets", h)
		}
		return
	}
}

// A connection gets a slot whose worker is unreachable, goes back into line, and is refused. It
// counts as never having been at the service.
func TestMetricsOfTurnedAwayAfterWorkerDown(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock {\nworkers "+caddytest.FreeAddr(t)+"\non activate test_call\n}", "{l4.tcplock.worker}"))
	var calls atomic.Int32
	call := func(hook.Moment) error {
		if calls.Add(1) > 1 {
			return errors.New("not a second time")
		}
		return nil
	}
	caddytest.OnCall(call)
	caddytest.Load(t, config)
	c := caddytest.Dial(t, addr)
	caddytest.Send(t, c, "hello")
	caddytest.ExpectClosed(t, c)
	a.Measures(t, map[string]float64{
		"connections_total{lock=default outcome=hook_failed}": 1,
		"wait_seconds{lock=default}":                          1,
		"hold_seconds{lock=default}":                          0,
	})
}
