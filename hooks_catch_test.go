package tcplock_test

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
)

// Hooks that emit events: a handler of Caddy's events app catches them, and a hook goes
// on when the test says so. So the test is there in the middle of the hook.

// caught is an event that was caught. Its emit step waits for done or fail.
type caught struct {
	name   string
	data   map[string]any
	answer chan error
}

// catching takes the events, until the test is over that Caddy runs for.
var (
	catching     = make(chan *caught)
	catchingOver atomic.Value // <-chan struct{}
)

// catcher is the handler that catches.
type catcher struct{}

// reasoner is a refuse handler that tells the client the reason.
type reasoner struct{}

func init() {
	caddy.RegisterModule(catcher{})
	caddy.RegisterModule(reasoner{})
}

func (catcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_catch", New: func() caddy.Module { return new(catcher) }}
}

func (catcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (catcher) Handle(ctx context.Context, e caddy.Event) error {
	if e.Origin() == nil || e.Origin().CaddyModule().ID != "layer4.tcplock.hooks.emit" {
		return nil // one of Caddy's own
	}
	c := &caught{e.Name(), e.Data, make(chan error, 1)}
	over := catchingOver.Load().(<-chan struct{})
	select {
	case catching <- c:
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.answer:
		return err
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (reasoner) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_tell_reason", New: func() caddy.Module { return new(reasoner) }}
}

func (reasoner) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (reasoner) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	reason, _ := cx.Replacer().GetString("l4.tcplock.reason")
	_, err := io.WriteString(cx, reason)
	return err
}

// hookServer is lockServer with events that are caught and refused clients that are told
// why.
func hookServer(t *testing.T, slots int, options, service string) string {
	t.Helper()
	catchingOver.Store(t.Context().Done())
	addr := freeAddr(t)
	load(t, hookConfig(addr, slots, options, service))
	return addr
}

func hookConfig(addr string, slots int, options, service string) string {
	return global(fmt.Sprintf(`events {
		on * test_catch
	}
	layer4 {
		%s {
			route {
				tcplock %d {
					linger 0
					%s
					refuse {
						test_tell_reason
					}
				}
				proxy %s
			}
		}
	}`, addr, slots, options, service))
}

// nextHook waits for a hook to emit its event.
func nextHook(t *testing.T) *caught {
	t.Helper()
	select {
	case c := <-catching:
		return c
	case <-time.After(patience):
		t.Fatal("no hook has emitted an event")
		return nil
	}
}

// caughtHook waits for a hook to emit want, which is: the event, then values of its data.
func caughtHook(t *testing.T, want string, values ...string) *caught {
	t.Helper()
	c := nextHook(t)
	got := c.name
	for _, name := range values {
		got += fmt.Sprint(" ", c.data[name])
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
	case c := <-catching:
		t.Fatalf("caught %s %v, expected nothing: %s", c.name, c.data, why)
	case <-time.After(d):
	}
}

// done lets the hook go on.
func (c *caught) done() { c.answer <- nil }

// fail makes the hook fail.
func (c *caught) fail() { c.answer <- fmt.Errorf("still busy: %w", caddy.ErrEventAborted) }
