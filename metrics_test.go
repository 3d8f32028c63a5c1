package tcplock_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// scrape returns the metrics as Prometheus would see them: a counter's or gauge's value, a
// histogram's count, by name and labels.
func (a admin) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	_, body := a.ask(t, "GET", "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for name, family := range families {
		short, ours := strings.CutPrefix(name, "caddy_tcplock_")
		if !ours {
			continue
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			values[short+"{"+strings.Join(labels, " ")+"}"] = value
		}
	}
	return values
}

// measures waits until the metrics have these values.
func (a admin) measures(t *testing.T, want map[string]float64) {
	t.Helper()
	var wrong []string
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		got := a.scrape(t)
		wrong = nil
		for name, value := range want {
			if v, ok := got[name]; !ok || v != value {
				wrong = append(wrong, fmt.Sprintf("%s: found %v, expected %v", name, v, value))
			}
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s\nin %v", strings.Join(wrong, "\n"), got)
		}
	}
}

// The metrics say what the service and the clients saw; totals survive a reload, with
// another handler and another lock as well, and go with their lock.
func TestMetrics(t *testing.T) {
	svc := newService(t, echo)
	addr, second := freeAddr(t), freeAddr(t)
	route := `tcplock {
		max_waiting 1
		name one
		on activate test_call
		on release exec false
	}`
	var broken atomic.Bool
	call := func(tcplock.Moment) error {
		if broken.Load() {
			return errors.New("test")
		}
		return nil
	}
	called.Store(&call)
	config, a := withAdmin(t, lockConfig(addr, route, svc.addr))
	load(t, config)
	a.measures(t, map[string]float64{
		"slots{lock=one}": 1,
		"held{lock=one}":  0,
		"connections_total{lock=one outcome=served}":              0,
		"connections_total{lock=one outcome=refused_full}":        0,
		"hook_runs_total{lock=one moment=activate result=failed}": 0,
		"wait_seconds{lock=one}":                                  0,
		"events_dropped_total{lock=one}":                          0,
	})

	holder := dial(t, addr)
	send(t, holder, "one")
	expect(t, holder, "one")
	waiter := dial(t, addr)
	send(t, waiter, "two")
	inLine(t, "one", 1, 1)
	expectClosed(t, dial(t, addr))
	if v := a.scrape(t)["oldest_wait_seconds{lock=one}"]; v <= 0 || v > patience.Seconds() {
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
	a.measures(t, during)

	two := global(fmt.Sprintf(`layer4 {
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
	}`, addr, route, svc.addr, second))
	load(t, a.in(two))
	during["slots{lock=two}"] = 1
	a.measures(t, during)
	holder.Close()
	expect(t, waiter, "two")
	waiter.Close()
	a.measures(t, map[string]float64{
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
	expectClosed(t, dial(t, addr))
	a.measures(t, map[string]float64{"connections_total{lock=one outcome=hook_failed}": 1, "hold_seconds{lock=one}": 2})

	load(t, a.in(lockConfig(second, "tcplock 1 {\nname two\n}", svc.addr)))
	eventually(t, "the metrics of a lock that has gone are gone", func() bool {
		_, there := a.scrape(t)["slots{lock=one}"]
		return !there
	})
}

// Prometheus gets native histograms if it asks for them, and classic ones in any case.
func TestMetricsNativeHistogram(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, "tcplock", svc.addr))
	load(t, config)
	c := dial(t, addr)
	send(t, c, "x")
	expect(t, c, "x")
	c.Close()
	a.measures(t, map[string]float64{"hold_seconds{lock=default}": 1})
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+a.addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	resp := answer(t, http.DefaultClient, req)
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

// A connection that was let through to a worker that could not be reached, and then was
// turned away, has not been at the service since.
func TestMetricsOfTurnedAwayAfterWorkerDown(t *testing.T) {
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, "tcplock {\nworkers "+freeAddr(t)+"\non activate test_call\n}", "{l4.tcplock.worker}"))
	var calls atomic.Int32
	call := func(tcplock.Moment) error {
		if calls.Add(1) > 1 {
			return errors.New("not a second time")
		}
		return nil
	}
	called.Store(&call)
	load(t, config)
	c := dial(t, addr)
	send(t, c, "hello")
	expectClosed(t, c)
	a.measures(t, map[string]float64{
		"connections_total{lock=default outcome=hook_failed}": 1,
		"wait_seconds{lock=default}":                          1,
		"hold_seconds{lock=default}":                          0,
	})
}
