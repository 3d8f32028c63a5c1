package places_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Two handlers of one lock with the same settings are equal, in whatever form: with defaults
// written out, in another order, with durations as numbers or strings, with empty lists.
func TestHandlersThatMeanTheSame(t *testing.T) {
	service := caddytest.NewService(t, caddytest.Echo)
	for _, test := range []struct{ name, one, other string }{
		{"defaults", `"slots": 1`, `"slots": 1, "linger": "1s", "drain": "4s", "half_closed": "keep", "wait_timeout": 0`},
		{"durations", `"hold_timeout": "20s"`, `"hold_timeout": 20000000000`},
		{"workers", `"workers": ["127.0.0.1:8101-8102"]`, `"workers": ["127.0.0.1:8101", "127.0.0.1:8102"]`},
		{"empty lists", `"slots": 2`, `"slots": 2, "hooks": [], "workers": []`},
		{"hooks",
			`"slots": 1, "hooks": [{"on": "activate", "steps": [{"hook": "exec", "command": "true"}, {"hook": "wait", "address": "localhost:1"}, {"hook": "emit", "event": "x"}]}]`,
			`"slots": 1, "hooks": [{"steps": [{"timeout": "1m", "command": "true", "hook": "exec"}, {"hook": "wait", "address": "localhost:1", "for": "open", "timeout": 30000000000}, {"hook": "emit", "event": "x", "timeout": "10s"}], "on": "activate", "optional": false}]`},
		{"a service",
			`"service": {"command": "sleep", "args": ["60"], "ready_command": ["true"], "start": "lazy"}`,
			`"service": {"command": "sleep", "args": ["60"], "ready_command": ["true"], "start": "lazy", "ready_timeout": "1m", "stop_timeout": "10s", "restart_every": 0}`},
		{"a handler with empty lists joins", `"slots": 3`, `"hooks": [], "workers": []`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var routes []string
			for _, settings := range []string{test.one, test.other} {
				routes = append(routes, fmt.Sprintf(`{"handle": [{"handler": "tcplock", "name": "same", %s}, {"handler": "proxy", "upstreams": [{"dial": [%q]}]}]}`, settings, service.Addr))
			}
			err := caddytest.TryLoadJSON(t, []byte(fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"layer4": {"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [%s]}}}}}`, strings.Join(routes, ","))))
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A handler with empty settings joins the lock, and has its way out: it can neither be a second one nor
// lack one.
func TestEmptySettingsAreNoWayOut(t *testing.T) {
	for _, test := range []struct{ name, settings, behind, want string }{
		{"to, and nothing behind", `"to": "127.0.0.1:8100"`, "", ""},
		{"to, and a handler behind", `"to": "127.0.0.1:8100"`, `, {"handler": "echo"}`, "found the handler echo behind tcplock"},
		{"workers, and nothing behind", `"workers": ["127.0.0.1:8101"]`, "", ""},
		{"workers, and a handler behind", `"workers": ["127.0.0.1:8101"]`, `, {"handler": "echo"}`, "expected the same behind both"},
	} {
		t.Run(test.name, func(t *testing.T) {
			routes := fmt.Sprintf(`{"handle": [{"handler": "tcplock", "name": "same", %s}]}, {"handle": [{"handler": "tcplock", "name": "same", "to": "", "workers": []}%s]}`,
				test.settings, test.behind)
			err := caddytest.TryLoadJSON(t, []byte(fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"layer4": {"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [%s]}}}}}`, routes)))
			if found := fmt.Sprint(err); (err == nil) != (test.want == "") || err != nil && !strings.Contains(found, test.want) {
				t.Errorf("found error %v, expected %q", err, test.want)
			}
		})
	}
}
