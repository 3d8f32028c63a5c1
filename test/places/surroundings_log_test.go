package places_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// saying returns the lines of the log that have this in their message.
func saying(lines []map[string]any, text string) (those []map[string]any) {
	for _, line := range lines {
		if strings.Contains(line["msg"].(string), text) {
			those = append(those, line)
		}
	}
	return those
}

// When a config is loaded, the log warns of settings of caddy-l4 that do not go together with a
// lock. There is no warning without cause.
func TestWarningsAtLoad(t *testing.T) {
	const checks = "proxy 127.0.0.1:1 {\nhealth_interval 1h\n}"
	for name, test := range map[string]struct {
		server       string // its block
		checks, idle int    // how many warnings
	}{
		"health checks behind a lock":    {"route {\ntcplock\n" + checks + "\n}", 1, 0},
		"deeper behind a lock":           {"route {\ntcplock\nsubroute {\nroute {\n" + checks + "\n}\n}\n}", 1, 0},
		"no health checks":               {"route {\ntcplock\nproxy 127.0.0.1:1\n}", 0, 0},
		"passive health checks":          {"route {\ntcplock\nproxy 127.0.0.1:1 {\nmax_fails 3\nfail_duration 1s\n}\n}", 0, 0},
		"health checks of a refusal":     {"route {\ntcplock {\nrefuse {\n" + checks + "\n}\n}\nproxy 127.0.0.1:1\n}", 0, 0},
		"health checks on another route": {"@all remote_ip 127.0.0.1\nroute @all {\n" + checks + "\n}\nroute {\ntcplock\nproxy 127.0.0.1:1\n}", 0, 0},
		"idle_timeout":                   {"idle_timeout 5m\nroute {\ntcplock\nproxy 127.0.0.1:1\n}", 0, 1},
		"idle_timeout without a lock":    {"idle_timeout 5m\nroute {\nproxy 127.0.0.1:1\n}", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			// The other servers, one with a lock and one for UDP, are no reason for a warning.
			config := fmt.Sprintf("layer4 {\n%s {\n%s\n}\n%s {\nroute {\ntcplock 1 {\nname other\n}\nproxy 127.0.0.1:2\n}\n}\n"+
				"udp/%[3]s {\nidle_timeout 5m\nroute {\nproxy udp/127.0.0.1:2\n}\n}\n}", caddytest.FreeAddr(t), test.server, caddytest.FreeAddr(t))
			caddyfile, lines := caddytest.Logged(t, caddytest.Global(config), "")
			caddytest.Load(t, caddyfile)
			all := lines("", 1)
			checks, idle := saying(all, "connect to the service past the lock"), saying(all, "ignores the idle_timeout")
			if len(checks) != test.checks || len(idle) != test.idle {
				t.Errorf("found %d warnings of health checks and %d of idle_timeout, expected %d and %d: %v", len(checks), len(idle), test.checks, test.idle, all)
			}
			for _, line := range checks {
				if line["lock"] != "default" || !reflect.DeepEqual(line["upstreams"], []any{"127.0.0.1:1"}) {
					t.Errorf("found %v, expected lock default and its upstream", line)
				}
			}
			for _, line := range idle {
				if line["server"] != "srv0" || line["idle_timeout"] != (5*time.Minute).Seconds() {
					t.Errorf("found %v, expected server srv0 and 5m", line)
				}
			}
		})
	}
}

// When a lock becomes active, one line in the log says where it listens, where it leads, and
// how many slots it has. So does a reload that changes one of these, and no other reload.
func TestLockListensLine(t *testing.T) {
	one, two := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	const servers = "layer4 {"
	caddyfile, lines := caddytest.Logged(t, caddytest.LockConfig(one, "tcplock", "127.0.0.1:1"), "")
	options, _, _ := strings.Cut(caddyfile, servers)
	var want []string
	reload := func(listen, route, service string, more ...string) {
		t.Helper()
		_, rest, _ := strings.Cut(caddytest.LockConfig(listen, route, service), servers)
		caddytest.Load(t, options+servers+rest)
		want = append(want, more...)
		var got []string
		for _, line := range saying(lines("", len(want)), "lock listens") {
			got = append(got, fmt.Sprintf("%v %v %v %v", line["lock"], line["listen"], line["to"], line["slots"]))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s, %s, %s: found %q, expected %q", listen, route, service, got, want)
		}
	}
	reload(one, "tcplock", "127.0.0.1:1", "default ["+one+"] [127.0.0.1:1] 1")
	reload(one, "tcplock {\nhold_timeout 1h\n}", "127.0.0.1:1")
	reload(one, "tcplock 2", "127.0.0.1:1", "default ["+one+"] [127.0.0.1:1] 2")
	reload(one, "tcplock 2", "127.0.0.1:2", "default ["+one+"] [127.0.0.1:2] 2")
	reload(two+" "+one, "tcplock 2", "127.0.0.1:2", fmt.Sprintf("default %v [127.0.0.1:2] 2", slices.Sorted(slices.Values([]string{one, two}))))
	reload(one, "tcplock {\nworkers 127.0.0.1:1-3\n}", "{l4.tcplock.worker}", "default ["+one+"] [127.0.0.1:1-3] 3")
	reload(one, "vars a b", "127.0.0.1:2")
	reload(one, "tcplock {\nworkers 127.0.0.1:1-3\n}", "{l4.tcplock.worker}", "default ["+one+"] [127.0.0.1:1-3] 3")
}
