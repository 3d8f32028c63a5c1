package hooks_test

import (
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"slices"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Subscribers get the lock's events, with their data. A slow handler delays no connection.
func TestEvents(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	options := "events {\non * test_listen\n}\n"
	route := "tcplock {\nmax_waiting 1\nhold_timeout 2s\non release exec false\n}"
	config, a := caddytest.WithAdmin(t, strings.Replace(caddytest.LockConfig(addr, route, svc.Addr), "layer4 {", options+"layer4 {", 1))
	hold := make(chan struct{})
	caddytest.Listening(hold)
	caddytest.Load(t, config)
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "one")
	caddytest.Expect(t, first, "one")
	second := caddytest.Dial(t, addr)
	caddytest.Send(t, second, "two")
	caddytest.InLine(t, "default", 1, 1)
	caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	caddytest.ExpectClosed(t, first) // although the handler is still busy with the first event
	caddytest.Expect(t, second, "two")
	second.Close()
	caddytest.InLine(t, "default", 0, 0)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/pause?for=1m")
	third := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 0, 1)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=4")
	caddytest.ExpectClosed(t, third)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/resume")
	close(hold)
	want := []string{
		"tcplock_activated connection=1 slot=1 reason= moment=",
		"tcplock_refused connection=3 slot=0 reason=refused_full moment=",
		"tcplock_timeout connection=1 slot=1 reason= moment=",
		"tcplock_hook_failed connection=1 slot=1 reason=hold_timeout moment=release",
		"tcplock_released connection=1 slot=1 reason=hold_timeout moment=",
		"tcplock_activated connection=2 slot=1 reason= moment=",
		"tcplock_hook_failed connection=2 slot=1 reason=served moment=release",
		"tcplock_released connection=2 slot=1 reason=served moment=",
		"tcplock_paused connection=0 slot=0 reason=for 1m0s moment=",
		"tcplock_kicked connection=4 slot=0 reason= moment=",
		"tcplock_refused connection=4 slot=0 reason=kicked moment=",
		"tcplock_resumed connection=0 slot=0 reason= moment=",
	}
	got := caddytest.Hears(t, len(want), "connection", "slot", "reason", "moment")
	// Two goroutines publish the release of one connection and the activation of the next, and
	// so it is with a kick and the end that it causes.
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("heard\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	caddytest.Heard.Lock()
	for _, e := range caddytest.Heard.Events {
		if e.Origin() == nil || e.Origin().CaddyModule().ID != "layer4.handlers.tcplock" || e.Data["name"] != "default" {
			t.Errorf("found %s from %v with %v, expected it from the handler of lock default", e.Name(), e.Origin(), e.Data)
		}
	}
	caddytest.Heard.Unlock()
	var names []string
	for _, e := range a.Lock(t, "default").Events {
		names = append(names, e.Event)
	}
	for _, one := range []string{"resumed", "kicked", "paused", "timeout", "refused", "hook_failed"} {
		if !slices.Contains(names, one) {
			t.Errorf("found events %v in the status, expected %s too", names, one)
		}
	}
	if slices.Contains(names, "activated") || slices.Contains(names, "released") || names[0] != "resumed" {
		t.Errorf("found events %v in the status, expected the newest first, and none for each connection", names)
	}
}

// A handler that never ends costs events, which are counted, but no connection. When it has
// ended, handlers get events again.
func TestEventsDropped(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	options := "events {\non tcplock_refused test_listen\n}\n"
	config, a := caddytest.WithAdmin(t, strings.Replace(caddytest.LockConfig(addr, "tcplock {\nmax_waiting 0\n}", svc.Addr), "layer4 {", options+"layer4 {", 1))
	hold := make(chan struct{})
	caddytest.Listening(hold)
	caddytest.Load(t, config)
	caddytest.LeakCheck(t)
	holder := caddytest.Dial(t, addr)
	caddytest.Send(t, holder, "one")
	caddytest.Expect(t, holder, "one")
	const more = 1050
	for range more {
		caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	}
	a.Measures(t, map[string]float64{
		"connections_total{lock=default outcome=refused_full}": more,
		"events_dropped_total{lock=default}":                   more - 1001, // one is being handled
	})
	close(hold)
	caddytest.Hears(t, 1001)
	caddytest.Listening(nil)
	caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	caddytest.Hears(t, 1)
	if e := a.Lock(t, "default").Events; len(e) != 1 || e[0].Event != "refused" || e[0].Count != more+1 {
		t.Errorf("found events %+v, expected one that counts %d", e, more+1)
	}
}

// An unreachable worker is published once, and each failure is counted. That it is reachable
// again is published too.
func TestEventsOfWorkers(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	addr, down := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	options := "events {\non tcplock_worker_down test_listen\non tcplock_worker_up test_listen\n}\n"
	config, a := caddytest.WithAdmin(t, strings.Replace(caddytest.PoolConfig(addr, "", down), "layer4 {", options+"layer4 {", 1))
	caddytest.Listening(nil)
	caddytest.Load(t, config)
	c := caddytest.Dial(t, addr)
	caddytest.Send(t, c, "one")
	caddytest.Eventually(t, "it has been tried twice", func() bool {
		return a.Scrape(t)["worker_failures_total{lock=default slot=1}"] >= 2
	})
	svc := caddytest.NewServiceAt(t, down, caddytest.Echo)
	caddytest.Expect(t, c, "one")
	c.Close()
	want := []string{"tcplock_worker_down slot=1 worker=" + svc.Addr, "tcplock_worker_up slot=1 worker=" + svc.Addr}
	if got := caddytest.Hears(t, 2, "slot", "worker"); !slices.Equal(got, want) {
		t.Errorf("heard %q, expected %q", got, want)
	}
}
