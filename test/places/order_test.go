package places_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A config in which connections take locks in different orders is refused. The error names the
// locks, the orders and the places. With one order the config is accepted.
func TestOrderOfLocks(t *testing.T) {
	lock := func(names ...string) (list string) {
		for _, name := range names {
			list += fmt.Sprintf("tcplock {\nname %s\n}\n", name)
		}
		return list
	}
	for _, c := range []struct{ name, first, second, want string }{
		{"one order", lock("a", "b", "c") + "echo", lock("a", "c") + "echo", ""},
		{"shared by name", lock("a", "b") + "echo", "tcplock {\nname a\nrefuse {\necho\n}\n}\ntcplock {\nname b\n}\necho", ""},
		{"one after the other", "subroute {\nroute {\n" + lock("a") + "echo\n}\nroute {\n" + lock("b") + "echo\n}\n}", lock("b", "a") + "echo", ""},
		{"one lock twice", lock("a", "b", "a") + "echo", lock("a") + "echo", ""},
		{"refused by it", "tcplock {\nname b\nrefuse {\n" + lock("a") + "echo\n}\n}\necho", lock("a", "b") + "echo", ""},
		{"two", lock("a", "b") + "echo", lock("b", "a") + "echo",
			"found lock a before lock b (server srv0, route 1), lock b before lock a (server srv1, route 1), expected the same order on every route"},
		{"unnamed", "tcplock\n" + lock("b") + "echo", lock("b", "default") + "echo",
			"found lock b before lock default (server srv1, route 1), lock default before lock b (server srv0, route 1), expected the same order"},
		{"in subroute", lock("a") + "subroute {\nroute {\necho\n}\nroute {\n" + lock("b") + "echo\n}\n}", lock("b", "a") + "echo",
			"found lock a before lock b (server srv0, route 1, route 2), lock b before lock a (server srv1, route 1), expected the same order"},
		{"three, two of which are a shorter circle", lock("a", "b", "c") + "echo", lock("c", "a") + "echo",
			"found lock a before lock c (server srv0, route 1), lock c before lock a (server srv1, route 1), expected the same order"},
		{"three", lock("a", "b") + "echo\n}\nroute {\n" + lock("b", "c") + "echo", lock("c", "a") + "echo",
			"found lock a before lock b (server srv0, route 1), lock b before lock c (server srv0, route 2), lock c before lock a (server srv1, route 1), expected the same order"},
		{"refused behind another", lock("a") + "tcplock {\nname b\nrefuse {\n" + lock("c") + "echo\n}\n}\necho", lock("c", "a") + "echo",
			"found lock a before lock c (server srv0, route 1, lock b), lock c before lock a (server srv1, route 1), expected the same order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := caddytest.Global(fmt.Sprintf("layer4 {\n%s {\nroute {\n%s\n}\n}\n%s {\nroute {\n%s\n}\n}\n}", caddytest.FreeAddr(t), c.first, caddytest.FreeAddr(t), c.second))
			err := caddy.Validate(configOf(t, caddytest.Adapt(t, config)))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("found %v, expected no error", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("found    %v\nexpected %s", err, c.want)
			}
			caddytest.Eventually(t, "no lock is in use any more", func() bool { return caddytest.Locks() == 0 })
		})
	}
}

// One order in a layer4 server and the other in a listener wrapper is refused too.
func TestOrderOfLocksInListenerWrapper(t *testing.T) {
	config := wrapped(caddytest.FreeAddr(t), "layer4 {\n"+caddytest.FreeAddr(t)+" {\nroute {\n"+caddytest.Named("a", 1)+"\n"+caddytest.Named("b", 1)+"\necho\n}\n}\n}",
		"@number regexp [0-9]+ 3\nroute @number {\n"+caddytest.Named("b", 1)+"\n"+caddytest.Named("a", 1)+"\necho\n}")
	const want = "found lock a before lock b (server srv0, route 1), lock b before lock a (server srv0, route 1), expected the same order"
	if err := caddy.Validate(configOf(t, caddytest.Adapt(t, config))); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("found %v, expected an error with %s", err, want)
	}
}

func configOf(t *testing.T, raw []byte) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := json.Unmarshal(raw, config); err != nil {
		t.Fatal(err)
	}
	return config
}
