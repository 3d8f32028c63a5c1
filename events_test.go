package tcplock_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// listener is a handler of Caddy's events app that writes down what it gets.
type listener struct{}

// heard is what it got, and what it waits for before it takes the next one, if not nil.
var heard struct {
	sync.Mutex
	events []caddy.Event
	hold   chan struct{}
}

func init() { caddy.RegisterModule(listener{}) }

func (listener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_listen", New: func() caddy.Module { return new(listener) }}
}

func (listener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (listener) Handle(_ context.Context, e caddy.Event) error {
	if !strings.HasPrefix(e.Name(), "tcplock_") {
		return nil
	}
	heard.Lock()
	heard.events = append(heard.events, e)
	hold := heard.hold
	heard.Unlock()
	if hold != nil {
		<-hold
	}
	return nil
}

// listening forgets what was heard before, and holds up the listener if hold is not nil.
func listening(hold chan struct{}) {
	heard.Lock()
	defer heard.Unlock()
	heard.events, heard.hold = nil, hold
}

// hears waits for so many events and returns each as its name and these of its data.
func hears(t *testing.T, n int, data ...string) (lines []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events are heard", n), func() bool {
		heard.Lock()
		defer heard.Unlock()
		lines = nil
		for _, e := range heard.events {
			line := e.Name()
			for _, name := range data {
				line += fmt.Sprintf(" %s=%v", name, e.Data[name])
			}
			lines = append(lines, line)
		}
		return len(lines) >= n
	})
	return lines
}

// Whoever subscribes hears what happens at a lock, with its data; a slow handler holds up
// nobody.
func TestEvents(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	options := "events {\non * test_listen\n}\n"
	route := "tcplock {\nmax_waiting 1\nhold_timeout 2s\non release exec false\n}"
	config, a := withAdmin(t, strings.Replace(lockConfig(addr, route, svc.addr), "layer4 {", options+"layer4 {", 1))
	hold := make(chan struct{})
	listening(hold)
	load(t, config)
	first := dial(t, addr)
	send(t, first, "one")
	expect(t, first, "one")
	second := dial(t, addr)
	send(t, second, "two")
	inLine(t, "default", 1, 1)
	expectClosed(t, dial(t, addr))
	expectClosed(t, first) // although the listener still has the first event
	expect(t, second, "two")
	second.Close()
	inLine(t, "default", 0, 0)
	asks[status.Lock](t, a, "POST", "/tcplock/locks/default/pause?for=1m")
	third := dial(t, addr)
	inLine(t, "default", 0, 1)
	asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=4")
	expectClosed(t, third)
	asks[status.Lock](t, a, "POST", "/tcplock/locks/default/resume")
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
	got := hears(t, len(want), "connection", "slot", "reason", "moment")
	// The slot of one and the activation of the next are told by two goroutines, and so are
	// a kick and what comes of it.
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("heard\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	heard.Lock()
	for _, e := range heard.events {
		if e.Origin() == nil || e.Origin().CaddyModule().ID != "layer4.handlers.tcplock" || e.Data["name"] != "default" {
			t.Errorf("found %s from %v with %v, expected it from the handler of lock default", e.Name(), e.Origin(), e.Data)
		}
	}
	heard.Unlock()
	var names []string
	for _, e := range a.lock(t, "default").Events {
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

// A handler that never ends costs events, which are counted, and no connection; when it
// has ended, events are heard again.
func TestEventsDropped(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	options := "events {\non tcplock_refused test_listen\n}\n"
	config, a := withAdmin(t, strings.Replace(lockConfig(addr, "tcplock {\nmax_waiting 0\n}", svc.addr), "layer4 {", options+"layer4 {", 1))
	hold := make(chan struct{})
	listening(hold)
	load(t, config)
	leakCheck(t)
	holder := dial(t, addr)
	send(t, holder, "one")
	expect(t, holder, "one")
	const more = 1050
	for range more {
		expectClosed(t, dial(t, addr))
	}
	a.measures(t, map[string]float64{
		"connections_total{lock=default outcome=refused_full}": more,
		"events_dropped_total{lock=default}":                   more - 1001, // one is being handled
	})
	close(hold)
	hears(t, 1001)
	listening(nil)
	expectClosed(t, dial(t, addr))
	hears(t, 1)
	if e := a.lock(t, "default").Events; len(e) != 1 || e[0].Event != "refused" || e[0].Count != more+1 {
		t.Errorf("found events %+v, expected one that counts %d", e, more+1)
	}
}

// A worker that cannot be reached is told of once, and each time counted; and so is that
// it can be again.
func TestEventsOfWorkers(t *testing.T) {
	addr, down := freeAddr(t), freeAddr(t)
	options := "events {\non tcplock_worker_down test_listen\non tcplock_worker_up test_listen\n}\n"
	config, a := withAdmin(t, strings.Replace(poolConfig(addr, "", down), "layer4 {", options+"layer4 {", 1))
	listening(nil)
	load(t, config)
	c := dial(t, addr)
	send(t, c, "one")
	eventually(t, "it has been tried twice", func() bool {
		return a.scrape(t)["worker_failures_total{lock=default slot=1}"] >= 2
	})
	svc := newServiceAt(t, down, echo)
	expect(t, c, "one")
	c.Close()
	want := []string{"tcplock_worker_down slot=1 worker=" + svc.addr, "tcplock_worker_up slot=1 worker=" + svc.addr}
	if got := hears(t, 2, "slot", "worker"); !slices.Equal(got, want) {
		t.Errorf("heard %q, expected %q", got, want)
	}
}
