package caddytest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	_ "github.com/seed-4dbef00f/caddy-tcplock" // what is tested
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
)

// ExpectServed checks that a client reaches an echo service.
func ExpectServed(t *testing.T, addr string) {
	t.Helper()
	conn := Dial(t, addr)
	Send(t, conn, "hello")
	Expect(t, conn, "hello")
	_ = conn.CloseWrite()
	ExpectEOF(t, conn)
}

// panicker is the layer4 handler test_panic, which panics at its first calls.
type panicker struct{ calls atomic.Int32 }

// Panics is at how many calls the handler test_panic panics.
const Panics = 5

func init() { caddy.RegisterModule(new(panicker)) }

func (*panicker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_panic", New: func() caddy.Module { return new(panicker) }}
}

func (p *panicker) Handle(cx *layer4.Connection, next layer4.Handler) error {
	if p.calls.Add(1) <= Panics {
		panic("test")
	}
	return next.Handle(cx)
}

func (*panicker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// listener is test_listen, a handler of Caddy's events app that records tcplock's events.
type listener struct{}

// Heard has the events that test_listen got. If hold is not nil, test_listen waits after each event
// until hold is closed.
var Heard struct {
	sync.Mutex
	Events []caddy.Event
	hold   chan struct{}
}

func init() { caddy.RegisterModule(listener{}) }

func (listener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_listen", New: func() caddy.Module { return new(listener) }}
}

func (listener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (listener) Handle(_ context.Context, e caddy.Event) error {
	if !strings.HasPrefix(e.Name(), "tcplock_") {
		return nil
	}
	Heard.Lock()
	Heard.Events = append(Heard.Events, e)
	hold := Heard.hold
	Heard.Unlock()
	if hold != nil {
		<-hold
	}
	return nil
}

// Listening clears Heard. If hold is not nil, test_listen waits for it after each event.
func Listening(hold chan struct{}) {
	Heard.Lock()
	defer Heard.Unlock()
	Heard.Events, Heard.hold = nil, hold
}

// Hears waits for n events and returns a line for each, with its name and these fields of its data.
func Hears(t *testing.T, n int, data ...string) (lines []string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d events are heard", n), func() bool {
		Heard.Lock()
		defer Heard.Unlock()
		lines = nil
		for _, e := range Heard.Events {
			line := e.Name()
			for _, name := range data {
				line += fmt.Sprintf(" %s=%v", name, e.Data[name])
			}
			lines = append(lines, line)
		}
		return len(lines) >= n
	})
	return lines
}

// HoldTries is like HoldHooks for the hooks of one slot, whose worker a test takes down. The hooks
// of other slots do not wait.
func HoldTries(slot int) (tries chan Hook, letGo func()) {
	tries, letGo = HoldHooks()
	hold := *called.Load()
	call := func(m hook.Moment) error {
		if m.Slot != slot {
			return nil
		}
		return hold(m)
	}
	OnCall(call)
	return tries, letGo
}

// caller is the step test_call, which calls the function that OnCall has set.
type caller struct{}

var called atomic.Pointer[func(hook.Moment) error]

// OnCall sets the function that the step test_call calls from now on.
func OnCall(do func(hook.Moment) error) { called.Store(&do) }

func init() { caddy.RegisterModule(caller{}) }

func (caller) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.tcplock.hooks.test_call", New: func() caddy.Module { return new(caller) }}
}

func (caller) Run(_ context.Context, m hook.Moment) error { return (*called.Load())(m) }

func (caller) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// Hook is a call of the step test_call, which waits until GoOn is closed.
type Hook struct {
	hook.Moment
	GoOn chan struct{}
}

// HoldHooks makes each test_call wait until the test closes its GoOn, or calls letGo for all.
func HoldHooks() (hooks chan Hook, letGo func()) {
	hooks = make(chan Hook, 100)
	all := make(chan struct{})
	call := func(m hook.Moment) error {
		h := Hook{m, make(chan struct{})}
		hooks <- h
		select {
		case <-h.GoOn:
		case <-all:
		}
		return nil
	}
	OnCall(call)
	return hooks, func() { close(all) }
}

// Caught is an event of an emit step, caught by test_catch, a handler of Caddy's events app. The
// step waits until the test calls Done or Fail. So the test can act in the middle of a hook.
type Caught struct {
	Name   string
	Data   map[string]any
	Answer chan error
}

// Catching has the caught events. After the end of the test that called Catch, events are no longer
// caught.
var (
	Catching     = make(chan *Caught)
	catchingOver atomic.Value // <-chan struct{}
)

// catcher is test_catch.
type catcher struct{}

// reasoner is test_tell_reason, a refuse handler that sends the reason to the client.
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
		return nil // not from an emit step
	}
	c := &Caught{e.Name(), e.Data, make(chan error, 1)}
	over := catchingOver.Load().(<-chan struct{})
	select {
	case Catching <- c:
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.Answer:
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

// HookConfig returns the Caddyfile of a lock with hooks in its options. test_catch catches their
// events, and refused clients get the reason.
func HookConfig(addr string, slots int, options, service string) string {
	return Global(fmt.Sprintf(`events {
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
	}`, OnWay(addr), slots, options, service))
}

// Catch makes test_catch catch events until the test ends.
func Catch(t *testing.T) { catchingOver.Store(t.Context().Done()) }

// NextHook waits for a hook to emit its event.
func NextHook(t *testing.T) *Caught {
	t.Helper()
	select {
	case c := <-Catching:
		return c
	case <-time.After(Patience):
		t.Fatal("no hook has emitted an event")
		return nil
	}
}

// Done lets the hook go on.
func (c *Caught) Done() { c.Answer <- nil }

// Fail makes the hook fail.
func (c *Caught) Fail() { c.Answer <- fmt.Errorf("still busy: %w", caddy.ErrEventAborted) }
