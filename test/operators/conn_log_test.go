package operators_test

import (
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Each connection has one line in the log, at its end, with its outcome.
func TestConnectionLog(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	route := "tcplock {\nname one\nworkers " + svc.Addr + "\nmax_waiting 1\non activate test_call\non release exec false\n}"
	config, lines := caddytest.Logged(t, caddytest.LockConfig(addr, route, "{l4.tcplock.worker}"), "")
	call := func(hook.Moment) error { time.Sleep(10 * time.Millisecond); return nil }
	caddytest.OnCall(call)
	caddytest.Load(t, config)
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "hello")
	caddytest.Expect(t, first, "hello")
	second := caddytest.Dial(t, addr)
	caddytest.InLine(t, "one", 1, 1)
	refused := caddytest.Dial(t, addr)
	caddytest.ExpectClosed(t, refused)
	gone := second.LocalAddr().String()
	second.Close()
	caddytest.InLine(t, "one", 1, 0)
	third := caddytest.Dial(t, addr)
	caddytest.Send(t, third, "bye")
	caddytest.InLine(t, "one", 1, 1)
	first.Close()
	caddytest.Expect(t, third, "bye")
	third.Close()

	byID := make(map[float64]map[string]any)
	for _, line := range lines(".access", 4) {
		if line["msg"] != "connection ended" || line["level"] != "info" || line["lock"] != "one" {
			t.Errorf("found %v, expected the end of a connection", line)
		}
		byID[line["connection"].(float64)] = line
	}
	for id, want := range map[float64]struct {
		client, outcome, worker string
		position, slot, in, out float64
		waited, hooks, held     bool
	}{
		1: {first.LocalAddr().String(), "served", svc.Addr, 0, 1, 5, 5, false, true, true},
		2: {gone, "client_gone", "", 1, 0, 0, 0, true, false, false},
		3: {refused.LocalAddr().String(), "refused_full", "", 0, 0, 0, 0, false, false, false},
		4: {third.LocalAddr().String(), "served", svc.Addr, 1, 1, 3, 3, true, true, true},
	} {
		line := byID[id]
		for field, value := range map[string]any{
			"client": want.client, "outcome": want.outcome, "worker": want.worker, "position": want.position,
			"slot": want.slot, "bytes_in": want.in, "bytes_out": want.out,
		} {
			if line[field] != value {
				t.Errorf("connection %v: found %s %v, expected %v", id, field, line[field], value)
			}
		}
		for field, some := range map[string]bool{"waited": want.waited, "hooks": want.hooks, "held": want.held} {
			if d, ok := line[field].(float64); !ok || (d > 0) != some || d > caddytest.Patience.Seconds() {
				t.Errorf("connection %v: found %s %v, expected some: %t", id, field, line[field], some)
			}
		}
	}
	if n := len(lines(".access", 4)); n != 4 {
		t.Errorf("found %d lines, expected one for each of 4 connections", n)
	}
	hooks := lines(".hook", 4)
	if n := len(hooks); n != 4 {
		t.Errorf("found %d lines of hooks, expected 4: %v", n, hooks)
	}
}

// The config can turn off the lines of connections, alone or together with all lines that are
// no warnings.
func TestConnectionLogSilenced(t *testing.T) {
	for _, options := range []string{"exclude layer4.handlers.tcplock.access", "level WARN"} {
		t.Run(options, func(t *testing.T) {
			svc := caddytest.NewService(t, caddytest.Echo)
			addr := caddytest.FreeAddr(t)
			config, lines := caddytest.Logged(t, caddytest.LockConfig(addr, "tcplock {\non release exec false\n}", svc.Addr), options)
			caddytest.Load(t, config)
			const n = 3 // when the last one's hook is logged, the first one's line would have been long since
			for range n {
				c := caddytest.Dial(t, addr)
				caddytest.Send(t, c, "hello")
				caddytest.Expect(t, c, "hello")
				c.Close()
			}
			lines(".hook", n) // a failure, so they are errors
			caddytest.InLine(t, "default", 0, 0)
			if found := lines(".access", 0); len(found) > 0 {
				t.Errorf("found %v, expected nothing", found)
			}
		})
	}
}

// A flood of refusals has some lines a second, and a line that counts the others. So each
// connection is logged or counted.
func TestConnectionLogFlood(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, lines := caddytest.Logged(t, caddytest.LockConfig(addr, "tcplock {\nmax_waiting 0\n}", svc.Addr), "")
	caddytest.Load(t, config)
	holder := caddytest.Dial(t, addr)
	caddytest.Send(t, holder, "one")
	caddytest.Expect(t, holder, "one")
	const flood = 400
	start := time.Now()
	for range flood {
		caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	}
	seconds := int(time.Since(start).Seconds()) + 2
	own, counted := 0, 0.0
	caddytest.Eventually(t, "all are accounted for", func() bool {
		own, counted = 0, 0
		for _, line := range lines(".access", 1) {
			if n, ok := line["connections"].(float64); ok {
				counted += n
			} else if line["outcome"] == "refused_full" {
				own++
			}
		}
		return own+int(counted) == flood
	})
	if own > seconds*50 || own < 50 && counted > 0 {
		t.Errorf("found %d lines in %d seconds and %v more counted, expected at most 50 a second", own, seconds, counted)
	}
}
