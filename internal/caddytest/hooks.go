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

// ExpectServed makes sure that a client gets through to an echo service.
func ExpectServed(t *testing.T, addr string) {
	t.Helper()
	conn := Dial(t, addr)
	Send(t, conn, "hello")
	Expect(t, conn, "hello")
	_ = conn.CloseWrite()
	ExpectEOF(t, conn)
}

// panicker is a layer4 handler that panics the first times it is called.
type panicker struct{ calls atomic.Int32 }

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

// listener is a handler of Caddy's events app that writes down what it gets.
type listener struct{}

// Heard is what it got, and what it waits for before it takes the next one, if not nil.
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

// Listening forgets what was heard before, and holds up the listener if hold is not nil.
func Listening(hold chan struct{}) {
	Heard.Lock()
	defer Heard.Unlock()
	Heard.Events, Heard.hold = nil, hold
}

// Hears waits for so many events and returns each as its name and these of its data.
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

// HoldTries lets the activate hooks of one slot wait, for those who try a worker that is
// down. The others go on.
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

// caller is a step, test_call, that calls the function the test has set for it.
type caller struct{}

var called atomic.Pointer[func(hook.Moment) error]

// OnCall says what the step test_call does from now on.
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

// Hook is a moment that the test holds up.
type Hook struct {
	hook.Moment
	GoOn chan struct{}
}

// HoldHooks lets each test_call wait until the test goes on with it, or lets all go.
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

// Hooks that emit events: a handler of Caddy's events app catches them, and a hook goes
// on when the test says so. So the test is there in the middle of the hook.

// Caught is an event that was caught. Its emit step waits for Done or Fail.
type Caught struct {
	Name   string
	Data   map[string]any
	Answer chan error
}

// Catching takes the events, until the test is over that Caddy runs for.
var (
	Catching     = make(chan *Caught)
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
	}`, addr, slots, options, service))
}

// Catch lets a test catch the events, until it ends.
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
