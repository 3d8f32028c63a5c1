package reload_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A config starts, and then Caddy fails to set up the last part of it, and drops it. Limits and
// hooks are those of the config before, and the hooks' counts go on.
func TestConfigThatFailsLateChangesNothing(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	var ran []uint64 // the connections for which a hook ran
	call := func(m hook.Moment) error {
		ran = append(ran, m.Connection)
		return nil
	}
	caddytest.OnCall(call)
	config := func(slots, every int) []byte {
		return caddytest.Adapt(t, caddytest.LockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\non activate {\nevery %d\ntest_call\n}\n}", slots, every), svc.Addr))
	}
	if err := caddytest.TryLoadJSON(t, config(1, 3)); err != nil {
		t.Fatal(err)
	}
	l := caddytest.NewLine(svc, addr, 1)
	serve := func(n int) {
		t.Helper()
		for range n {
			l.Join(t, 1)
			l.Finish(t)
		}
	}
	serve(2)
	var late map[string]any
	if err := json.Unmarshal(config(3, 1000), &late); err != nil {
		t.Fatal(err)
	}
	late["admin"].(map[string]any)["config"] = map[string]any{"load": map[string]any{"module": "no_such_loader"}}
	cfg, err := json.Marshal(late)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddytest.TryLoadJSON(t, cfg); err == nil || !strings.Contains(err.Error(), "loading config loader module") {
		t.Fatalf("found %v, expected an error of the config loader", err)
	}
	if slots, _, _, _ := caddytest.LockStats("default"); slots != 1 {
		t.Errorf("found %d slots, expected 1 as before", slots)
	}
	// Caddy leaves the dropped config's listener open: connections come by both configs.
	l.Join(t, 5)
	l.Finish(t)
	if want := []uint64{1, 4, 7}; !slices.Equal(ran, want) {
		t.Errorf("found the hook run for %d, expected %d", ran, want)
	}
}
