//go:build unix

package processes_test

import (
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// restart restarts the service's processes: at once if the slot is free, otherwise when the holder
// has gone.
func TestCommandRestart(t *testing.T) {
	caddytest.Caddy(t)
	w := newWebPool(t, 2)
	config, admin := caddytest.WithAdmin(t, w.config("", ""))
	caddytest.Load(t, config)
	ready := func() {
		t.Helper()
		caddytest.Eventually(t, "both workers are ready", func() bool {
			return strings.Count(admin.Exits(t, 0, "", "status", "default"), " ready ") == 2
		})
	}
	ready()
	admin.Exits(t, 0, `^default: slot 2: (restarts now|is .*ing)\n$`, "restart", "--slot", "2")
	w.started(t, 2, 2)
	w.started(t, 1, 1)
	ready()
	client := caddytest.Dial(t, w.lock)
	caddytest.InLine(t, "default", 1, 0)
	out := admin.Exits(t, 0, "", "restart")
	if want := "restarts when connection 1 (" + client.LocalAddr().String() + ") has ended"; !strings.Contains(out, want) || strings.Count(out, "default: slot ") != 2 {
		t.Errorf("found no %q in:\n%s", want, out)
	}
	client.Close()
	caddytest.Eventually(t, "both have been restarted", func() bool { return len(w.pids(t, 1)) == 2 && len(w.pids(t, 2)) == 3 })
	admin.Exits(t, 1, `slot: found 3, `, "restart", "--slot", "3")
}
