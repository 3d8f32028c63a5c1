package hooks_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// hookServer is caddytest.LockServer with a handler for events, and with refuse handlers that
// tell a client why it is refused.
func hookServer(t *testing.T, slots int, options, service string) string {
	t.Helper()
	caddytest.Catch(t)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.HookConfig(addr, slots, options, service))
	return addr
}

// caughtHook waits until a hook has emitted want: the event, and then values of its data.
func caughtHook(t *testing.T, want string, values ...string) *caddytest.Caught {
	t.Helper()
	c := caddytest.NextHook(t)
	got := c.Name
	for _, name := range values {
		got += fmt.Sprint(" ", c.Data[name])
	}
	if got != want {
		t.Fatalf("caught %q, expected %q", got, want)
	}
	return c
}

// noHook makes sure that no hook runs for a moment.
func noHook(t *testing.T, why string) {
	t.Helper()
	noHookFor(t, 100*time.Millisecond, why)
}

func noHookFor(t *testing.T, d time.Duration, why string) {
	t.Helper()
	select {
	case c := <-caddytest.Catching:
		t.Fatalf("caught %s %v, expected nothing: %s", c.Name, c.Data, why)
	case <-time.After(d):
	}
}
