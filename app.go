package tcplock

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
)

// App keeps together what the tcplock handlers of one config say of their locks. Caddy
// makes one for each config that has such a handler; there is nothing to configure.
//
// It is an app because an app is told when its config has started and when it is gone:
// a lock's limits must not change for a config that is refused half-way.
type App struct {
	configs map[string]*config
	places  place.Places
	found   sync.Once // see findLocks
	unnamed bool      // there is a handler without a name
	ctx     caddy.Context
	unwatch func() // see listen.Watch; nil before
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "tcplock",
		New: func() caddy.Module {
			return &App{configs: make(map[string]*config), places: place.New()}
		},
	}
}

// Provision puts the metrics of all locks on the config's registry, and asks to be told
// when all apps of the config have started, see Handle.
func (a *App) Provision(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	a.ctx = ctx
	if err := ctx.GetMetricsRegistry().Register(collector{}); err != nil {
		return err
	}
	return events.(*caddyevents.App).On("started", a)
}

// register adds a handler to what the config wants of its lock, and refuses one that contradicts
// the handlers before it.
func (a *App) register(ctx caddy.Context, h *Handler) (*config, error) {
	if h.Name == "" {
		if a.unnamed {
			return nil, fmt.Errorf("found a second tcplock without a name: name each, or name both alike to share one lock")
		}
		a.unnamed = true
	}
	name := h.lockName()
	c := a.configs[name]
	if c == nil {
		c = &config{name: name, assign: a.findLocks}
		a.configs[name] = c
	}
	if h.Name != "" && h.Settings.empty() {
		return c, nil // it joins
	}
	return c, c.define(ctx, h.Settings, h.logger)
}

// findLocks gives each config of a lock its lock. The first connection does it, or the start of the config,
// whichever comes first.
func (a *App) findLocks() {
	a.found.Do(func() {
		for name, c := range a.configs {
			c.listen = a.places.Layout.Addresses(name)
			c.to = a.places.Layout.LeadsTo(name, c.settings.Workers)
		}
		locks.assign(a.configs, a.places.Layout.Listen)
	})
}

// Start refuses a config that leaves it open what one of its locks is, and one that listens
// where another process does: caddy validate beside a running Caddy only provisions a config,
// and is not refused. What the locks are changes later, see Handle.
func (a *App) Start() error {
	for name, c := range a.configs {
		if !c.defined {
			return fmt.Errorf("lock %s: no handler of this config says what it is: give one of those that have this name its settings (tcplock 1 { name %s })", name, name)
		}
	}
	return listen.Elsewhere(newAddresses(a.places.Layout.Listen))
}

// Handle implements caddyevents.Handler: all apps of the config have started, and it
// comes into force. The config it replaces may take its time to stop.
func (a *App) Handle(_ context.Context, e caddy.Event) error {
	if e.Origin() != nil {
		return nil // not Caddy's own
	}
	a.findLocks()
	warnOfOldLocks(a.configs, a.places.Layout.Listen, a.ctx.Logger())
	for _, name := range slices.Sorted(maps.Keys(a.configs)) { // in an order, for the log
		c := a.configs[name]
		c.lock.activate(c)
	}
	if app, err := a.ctx.AppIfConfigured("layer4"); err == nil {
		a.unwatch = listen.Watch(app.(*layer4.App).Servers, a.ctx.Logger())
	}
	return nil
}

// Stop lets the holders of all locks finish if the process is ending. At a reload they
// stay, and so do the waiters.
func (a *App) Stop() error {
	if caddy.Exiting() {
		shutDownAll()
	}
	return nil
}

// Cleanup takes the config's settings out of force. A connection may come even after that,
// by a listener that layer4 leaves open when it fails to start, so the locks are found in
// any case.
func (a *App) Cleanup() error {
	a.findLocks()
	if a.unwatch != nil {
		a.unwatch()
	}
	for _, c := range a.configs {
		c.lock.deactivate(c)
		c.lock.exit()
	}
	return nil
}

// Interface guards
var (
	_ caddy.App           = (*App)(nil)
	_ caddy.Provisioner   = (*App)(nil)
	_ caddy.CleanerUpper  = (*App)(nil)
	_ caddyevents.Handler = (*App)(nil)
)
