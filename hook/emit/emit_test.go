package emit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// A step in a Caddyfile gives the same JSON as one written by hand. A text that is not the name of an
// event is refused in both.
func TestEmitConfig(t *testing.T) {
	testkit.WantSteps(t, map[string]string{
		"emit soffice_restarted":                `{"event":"soffice_restarted"}`,
		"emit restarted {\n timeout 500ms\n}":   `{"event":"restarted","timeout":500000000}`,
		"emit":                                  "emit: found 0 arguments, expected the name of an event, at Testfile:1",
		"emit a b":                              "emit: found 2 arguments, expected the name of an event, at Testfile:1",
		`emit ""`:                               `event: found "", expected a name without placeholders, at Testfile:1`,
		"emit {l4.tcplock.name}":                `event: found "{l4.tcplock.name}", expected a name without placeholders, at Testfile:1`,
		"emit a {\n timeout -1s\n}":             "timeout: found -1s, expected a duration of 0 (the default) or more, at Testfile:2",
		"emit a {\n timeout 1s\n timeout 2s\n}": "timeout: found a second time, expected once, at Testfile:3",
	})
	testkit.WantJSONRefused(t, "layer4.tcplock.hooks.emit", map[string]string{
		`{"event":""}`:                  `event: found ""`,
		`{"event":"a","timeout":"-1s"}`: "timeout: found -1s",
	})
}

// An event reaches its subscribers with the moment's values, and as coming from the
// step; a second event carries its own values, not those of the first.
func TestEmit(t *testing.T) {
	type seen struct {
		name, origin, replaced string
		data                   map[string]any
	}
	var events []seen
	emit, _ := newEmit(t, `{"event":"Restarted"}`, func(ctx context.Context, e caddy.Event) error {
		repl := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		events = append(events, seen{
			e.Name(), e.Origin().CaddyModule().String(),
			repl.ReplaceAll("{event.data.slot} {l4.tcplock.slot}", "?"), maps.Clone(e.Data),
		})
		return errors.New("a handler's own error, which the events app logs")
	})
	for slot := 1; slot <= 2; slot++ {
		if err := emit.Run(t.Context(), hook.Moment{On: hook.Timeout, Lock: "printer", Slot: slot, Connection: 9, Client: "192.0.2.1:5000", Waited: time.Second, Reason: "hold_timeout"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(events) != 2 {
		t.Fatalf("found %d events, expected 2", len(events))
	}
	for i, got := range events {
		slot := fmt.Sprint(i + 1)
		if got.name != "restarted" || got.origin != "layer4.tcplock.hooks.emit" || got.replaced != slot+" "+slot {
			t.Errorf("event %s: found %+v", slot, got)
		}
		if want := (map[string]any{
			"moment": "timeout", "name": "printer", "slot": slot, "worker": "", "worker_host": "", "worker_port": "", "connection": "9",
			"client": "192.0.2.1:5000", "waited": "1s", "reason": "hold_timeout",
		}); !maps.Equal(got.data, want) {
			t.Errorf("event %s: found %v, expected %v", slot, got.data, want)
		}
	}
}

// A reload ends the config's context, but connections from before the reload still emit.
func TestEmitAfterReload(t *testing.T) {
	n := 0
	emit, unload := newEmit(t, `{"event":"restarted"}`, func(context.Context, caddy.Event) error { n++; return nil })
	unload()
	if err := emit.Run(t.Context(), hook.Moment{}); err != nil || n != 1 {
		t.Errorf("found %d events (%v), expected 1", n, err)
	}
}

// A handler can make the step fail, by an abort or a panic. A panic must not end the process.
func TestEmitFails(t *testing.T) {
	abort, _ := newEmit(t, `{"event":"restarted"}`, func(context.Context, caddy.Event) error {
		return fmt.Errorf("still busy: %w", caddy.ErrEventAborted)
	})
	if err := abort.Run(t.Context(), hook.Moment{}); !errors.Is(err, caddy.ErrEventAborted) || !strings.HasPrefix(err.Error(), "emit restarted: aborted by a handler: still busy") {
		t.Errorf("found %v, expected an abort", err)
	}
	panics, _ := newEmit(t, `{"event":"restarted"}`, func(context.Context, caddy.Event) error { panic("oh") })
	if err := panics.Run(t.Context(), hook.Moment{}); err == nil || !strings.HasPrefix(err.Error(), "emit restarted: handler panicked: oh\n") {
		t.Errorf("found %v, expected a panic", err)
	}
}

// Handlers that hang make the step fail at its timeout, and do not pile up. The step works again once
// they have returned.
func TestEmitTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	hang, calls := make(chan struct{}), make(chan struct{}, 9)
	emit, _ := newEmit(t, `{"event":"restarted","timeout":"1s"}`, func(context.Context, caddy.Event) error {
		calls <- struct{}{}
		<-hang
		return nil
	})
	for _, want := range []string{
		"emit restarted: its handlers have not ended after 1s",
		"emit restarted: not emitted, its handlers still run since an earlier timeout",
	} {
		if err := emit.Run(t.Context(), hook.Moment{}); err == nil || err.Error() != want {
			t.Errorf("found %v, expected %s", err, want)
		}
	}
	if n := len(calls); n != 1 {
		t.Errorf("found %d handlers called, expected 1", n)
	}
	close(hang)
	for deadline := time.Now().Add(20 * time.Second); emit.Run(t.Context(), hook.Moment{}) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("found it failing still, expected it to work once the handler has returned")
		}
	}
}

// A hook that has to end does not wait for handlers. Handlers that were left out do not count as
// success.
func TestEmitCancelled(t *testing.T) {
	shutdown := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	hang := make(chan struct{})
	defer close(hang)
	emit, _ := newEmit(t, `{"event":"restarted"}`, func(context.Context, caddy.Event) error {
		cancel(shutdown)
		<-hang
		return nil
	})
	if err := emit.Run(ctx, hook.Moment{}); !errors.Is(err, shutdown) {
		t.Errorf("found %v, expected %v", err, shutdown)
	}
	unheard, _ := newEmit(t, `{"event":"restarted"}`, func(context.Context, caddy.Event) error { return nil })
	if err := unheard.Run(ctx, hook.Moment{}); !errors.Is(err, shutdown) {
		t.Errorf("found %v, expected %v", err, shutdown)
	}
}

// A connection may come while its config is still starting. Its event waits for the start: before that
// the events app must not be called, and does not know all subscribers. A step that has to end meanwhile
// waits no longer.
func TestEmitBeforeStart(t *testing.T) {
	n, started := 0, make(chan struct{})
	emit, _ := newEmit(t, `{"event":"restarted"}`, func(context.Context, caddy.Event) error { n++; return nil })
	ended := errors.New("client has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ended)
	if err := emit.Run(ctx, hook.Moment{Started: started}); !errors.Is(err, ended) || n > 0 {
		t.Errorf("found %d events (%v), expected none, and %v", n, err, ended)
	}
	result := make(chan error)
	go func() { result <- emit.Run(t.Context(), hook.Moment{Started: started}) }()
	select {
	case err := <-result:
		t.Fatalf("found it done before the start (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(started)
	if err := <-result; err != nil || n != 1 {
		t.Errorf("found %d events (%v), expected 1", n, err)
	}
}

// newEmit loads the step in a config with a real events app that handler subscribes to, and
// starts it.
func newEmit(t *testing.T, raw string, handler handlerFunc) (step hook.Step, unload func()) {
	t.Helper()
	config, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	ctx, unload := caddy.NewContext(config)
	t.Cleanup(unload)
	app, err := ctx.App("events")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := ctx.LoadModuleByID("layer4.tcplock.hooks.emit", []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	events := app.(*caddyevents.App)
	if err := events.On(mod.(*Step).Event, handler); err != nil {
		t.Fatal(err)
	}
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	return mod.(hook.Step), unload
}

type handlerFunc func(context.Context, caddy.Event) error

func (f handlerFunc) Handle(ctx context.Context, e caddy.Event) error { return f(ctx, e) }
