//go:build unix

package processes_test

import (
	"fmt"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Each restart is published with its reason: as a metric, as an event and in the status. A restart
// that an operator asks for waits for the holder.
func TestServiceRestartsAreTold(t *testing.T) {
	w := newWebPool(t, 1)
	config, a := caddytest.WithAdmin(t, w.config("restart every 2", "linger 0"))
	config = strings.Replace(config, "layer4 {", "events {\non tcplock_started test_listen\non tcplock_restarted test_listen\n}\nlayer4 {", 1)
	caddytest.Listening(nil)
	caddytest.Load(t, config)
	process := func() *status.Process { return a.Lock(t, "default").Workers[0].Process }
	ready := func(restarts int) (pid int) {
		t.Helper()
		caddytest.Eventually(t, fmt.Sprintf("the process is ready after %d restarts", restarts), func() bool {
			p, n := process(), 0
			for _, times := range p.Restarts {
				n += times
			}
			pid = p.PID
			return p.State == "ready" && p.Due == "" && n == restarts
		})
		return pid
	}
	ready(0)
	get := func() {
		t.Helper()
		conn := caddytest.Dial(t, w.lock)
		caddytest.Send(t, conn, "GET / HTTP/1.0\r\n\r\n")
		if all, err := io.ReadAll(conn); err != nil || len(all) == 0 {
			t.Errorf("read %d bytes, error %v, expected an answer", len(all), err)
		}
	}
	get()
	get()
	pid := ready(1)

	holder := caddytest.Dial(t, w.lock)
	caddytest.Send(t, holder, "GET / ")
	caddytest.InLine(t, "default", 1, 0)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/restart?slot=1")
	if p := process(); p.Due != "request" || p.PID != pid || p.State != "ready" {
		t.Errorf("found %+v, expected the process of the holder, due for a request", p)
	}
	caddytest.Send(t, holder, "HTTP/1.0\r\n\r\n")
	if all, err := io.ReadAll(holder); err != nil || len(all) == 0 {
		t.Errorf("read %d bytes, error %v, expected an answer", len(all), err)
	}
	if pid = ready(2); process().LastReason != "request" {
		t.Errorf("found %+v, expected a restart on request", process())
	}
	get() // a process without a client would back off
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ready(3)
	a.Measures(t, map[string]float64{
		"service_restarts_total{lock=default reason=every slot=1}":    1,
		"service_restarts_total{lock=default reason=request slot=1}":  1,
		"service_restarts_total{lock=default reason=exit slot=1}":     1,
		"service_restarts_total{lock=default reason=interval slot=1}": 0,
		"service_failures_total{lock=default slot=1}":                 0,
		"service_ready{lock=default slot=1}":                          1,
		"worker_up{lock=default slot=1}":                              1,
	})
	want := []string{
		"tcplock_started reason= slot=1",
		"tcplock_restarted reason=every slot=1",
		"tcplock_restarted reason=request slot=1",
		"tcplock_restarted reason=exit slot=1",
	}
	told := caddytest.Hears(t, len(want), "reason", "slot")
	if !slices.Equal(told, want) {
		t.Errorf("heard %q, expected %q", told, want)
	}
}

// The process of a worker is stopped until a client comes. The worker does not count as up, but a
// client may get it all the same.
func TestServiceStoppedIsTold(t *testing.T) {
	w := newWebPool(t, 1)
	config, a := caddytest.WithAdmin(t, w.config("start lazy", ""))
	caddytest.Load(t, config)
	if s := a.Lock(t, "default").Workers[0]; s.State != "stopped" || s.Process.State != "stopped" {
		t.Errorf("found %+v with %+v, expected it stopped", s, s.Process)
	}
	a.Measures(t, map[string]float64{
		"worker_up{lock=default slot=1}":     1,
		"service_ready{lock=default slot=1}": 0,
	})
	w.ask(t)
	if s := a.Lock(t, "default").Workers[0]; s.State != "up" || s.Process.State != "ready" {
		t.Errorf("found %+v with %+v, expected it up", s, s.Process)
	}
}
