package tcplock_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// logged makes a Caddyfile write its log, with more options for it, as JSON lines into a file,
// and returns a function that waits for n lines of a logger.
func logged(t *testing.T, caddyfile, options string) (string, func(logger string, n int) []map[string]any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	caddyfile = strings.Replace(caddyfile, "persist_config off", fmt.Sprintf("persist_config off\nlog {\noutput file %s\nformat json\n%s\n}", file, options), 1)
	return caddyfile, func(logger string, n int) (lines []map[string]any) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d lines of %s are logged", n, logger), func() bool {
			f, err := os.Open(file)
			if err != nil {
				return n == 0
			}
			defer f.Close()
			lines = nil
			for scanner := bufio.NewScanner(f); scanner.Scan(); {
				var line map[string]any
				if json.Unmarshal(scanner.Bytes(), &line) == nil && line["logger"] == "layer4.handlers.tcplock"+logger {
					lines = append(lines, line)
				}
			}
			return len(lines) >= n
		})
		return lines
	}
}

// Each connection has one line in the log, at its end, that says what became of it.
func TestConnectionLog(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	route := "tcplock {\nname one\nworkers " + svc.addr + "\nmax_waiting 1\non activate test_call\non release exec false\n}"
	config, lines := logged(t, lockConfig(addr, route, "{l4.tcplock.worker}"), "")
	call := func(tcplock.Moment) error { time.Sleep(10 * time.Millisecond); return nil }
	called.Store(&call)
	load(t, config)
	first := dial(t, addr)
	send(t, first, "hello")
	expect(t, first, "hello")
	second := dial(t, addr)
	inLine(t, "one", 1, 1)
	refused := dial(t, addr)
	expectClosed(t, refused)
	gone := second.LocalAddr().String()
	second.Close()
	inLine(t, "one", 1, 0)
	third := dial(t, addr)
	send(t, third, "bye")
	inLine(t, "one", 1, 1)
	first.Close()
	expect(t, third, "bye")
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
		1: {first.LocalAddr().String(), "served", svc.addr, 0, 1, 5, 5, false, true, true},
		2: {gone, "client_gone", "", 1, 0, 0, 0, true, false, false},
		3: {refused.LocalAddr().String(), "refused_full", "", 0, 0, 0, 0, false, false, false},
		4: {third.LocalAddr().String(), "served", svc.addr, 1, 1, 3, 3, true, true, true},
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
			if d, ok := line[field].(float64); !ok || (d > 0) != some || d > patience.Seconds() {
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

// The lines of connections can be silenced, alone and with all that is no warning.
func TestConnectionLogSilenced(t *testing.T) {
	for _, options := range []string{"exclude layer4.handlers.tcplock.access", "level WARN"} {
		t.Run(options, func(t *testing.T) {
			svc := newService(t, echo)
			addr := freeAddr(t)
			config, lines := logged(t, lockConfig(addr, "tcplock {\non release exec false\n}", svc.addr), options)
			load(t, config)
			const n = 3 // when the last one's hook is logged, the first one's line would have been long since
			for range n {
				c := dial(t, addr)
				send(t, c, "hello")
				expect(t, c, "hello")
				c.Close()
			}
			lines(".hook", n) // a failure, so they are errors
			inLine(t, "default", 0, 0)
			if found := lines(".access", 0); len(found) > 0 {
				t.Errorf("found %v, expected nothing", found)
			}
		})
	}
}

// A flood of refusals has some lines a second, and a line that counts the others: nobody
// is left out.
func TestConnectionLogFlood(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, lines := logged(t, lockConfig(addr, "tcplock {\nmax_waiting 0\n}", svc.addr), "")
	load(t, config)
	holder := dial(t, addr)
	send(t, holder, "one")
	expect(t, holder, "one")
	const flood = 400
	start := time.Now()
	for range flood {
		expectClosed(t, dial(t, addr))
	}
	seconds := int(time.Since(start).Seconds()) + 2
	own, counted := 0, 0.0
	eventually(t, "all are accounted for", func() bool {
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
