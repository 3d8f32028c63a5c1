// Package emit is a hook step that emits an event through Caddy's events app.
package emit

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
)

func init() { caddy.RegisterModule(new(Step)) }

// Step emits an event through Caddy's events app and waits for the handlers that subscribe to it.
// It fails if a handler aborts the event. The events app logs all other errors of handlers. The
// event's data are moment, name, slot, worker, worker_host, worker_port, connection, client,
// waited and reason, all of them strings. Handlers may use {l4.tcplock.*} too.
type Step struct {
	// The name of the event. No placeholders. Required.
	Event string `json:"event"`

	// How long the handlers may take. After that the step has failed. If a handler still runs
	// after that, the step fails each time until the handler returns. Default and zero: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	ctx     caddy.Context
	events  *caddyevents.App
	overdue atomic.Int64 // events whose handlers still run after the timeout
}

const defaultEmitTimeout = 10 * time.Second

// CaddyModule returns the Caddy module information.
func (*Step) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.tcplock.hooks.emit", New: func() caddy.Module { return new(Step) }}
}

// Provision checks the step and finds the events app.
func (s *Step) Provision(ctx caddy.Context) error {
	if err := s.check(); err != nil {
		return err
	}
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	s.ctx, s.events = ctx, app.(*caddyevents.App)
	return nil
}

func (s *Step) check() error {
	if s.Event == "" || strings.Contains(s.Event, "{") {
		return fmt.Errorf("event: found %q, expected a name without placeholders", s.Event)
	}
	return hook.CheckTimeout(s.Timeout)
}

// Run implements Step.
func (s *Step) Run(ctx context.Context, m hook.Moment) error {
	// A handler that hangs may hang forever: such handlers must not pile up.
	if s.overdue.Load() > 0 {
		return fmt.Errorf("emit %s: not emitted, its handlers still run since an earlier timeout", s.Event)
	}
	timeout := cmp.Or(time.Duration(s.Timeout), defaultEmitTimeout)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if m.Started != nil { // until then the events app takes subscriptions, without a mutex
		select {
		case <-m.Started:
		case <-bounded.Done():
			return fmt.Errorf("emit %s: not emitted, its config has not started: %w", s.Event, context.Cause(bounded))
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.emit(bounded, m) }()
	var err error
	select {
	case err = <-done:
	case <-bounded.Done():
		s.overdue.Add(1)
		go func() {
			<-done
			s.overdue.Add(-1)
		}()
	}
	// The events app skips the remaining handlers when the context is done, and does not report
	// it.
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("stopped: %w", context.Cause(ctx))
	case bounded.Err() != nil:
		err = fmt.Errorf("its handlers have not ended after %s", timeout)
	}
	if err != nil {
		return fmt.Errorf("emit %s: %w", s.Event, err)
	}
	return nil
}

// emit emits with the context of the step. The one it was provisioned with names the origin, but
// it is done after a reload, when connections from before the reload still need it.
func (s *Step) emit(ctx context.Context, m hook.Moment) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("handler panicked: %v\n%s", r, debug.Stack())
		}
	}()
	data := make(map[string]any)
	for name, value := range m.Values() {
		data[name] = value
	}
	// A new replacer for each event, because the events app adds the event's data to it.
	origin := s.ctx
	origin.Context = context.WithValue(ctx, caddy.ReplacerCtxKey, m.Replacer())
	if event := s.events.Emit(origin, s.Event, data); event.Aborted != nil {
		return fmt.Errorf("aborted by a handler: %w", event.Aborted)
	}
	return nil
}

// WriteDefaults implements hook.DefaultWriter.
func (s *Step) WriteDefaults() { s.Timeout = cmp.Or(s.Timeout, caddy.Duration(defaultEmitTimeout)) }

// UnmarshalCaddyfile reads
//
//	emit <event> {
//	    timeout <duration>
//	}
func (s *Step) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("emit: found %s, expected the name of an event", opts.Count(len(args), "argument"))
	}
	s.Event = args[0]
	return opts.Table{"timeout": opts.One(&s.Timeout, opts.Duration)}.Parse(d, s.check, nil)
}

var _ hook.DefaultWriter = (*Step)(nil) // nothing else would notice if it were none
