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

// App collects what the tcplock handlers of one Caddy config say about their locks. Caddy makes
// one App for each config that has such a handler. It has no settings.
//
// It is an app because Caddy tells an app when its config has started and when it has ended.
// A config that fails half-way must not change a lock's limits.
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

// Provision registers the metrics of all locks with the config's registry, and subscribes to
// the event that all apps of the config have started, see Handle.
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

// register adds a handler to the config of its lock. It refuses a handler that contradicts an
// earlier one.
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

// Start refuses a config in which a lock has no settings, and a config that listens where another
// process listens. Provision does not check that: caddy validate provisions a config beside a
// running Caddy, and must succeed. The locks change later, see Handle.
func (a *App) Start() error {
	for name, c := range a.configs {
		if !c.defined {
			return fmt.Errorf("lock %s: no handler of this config has its settings: add them to one of the handlers with this name (tcplock 1 { name %s })", name, name)
		}
	}
	return listen.Elsewhere(newAddresses(a.places.Layout.Listen))
}

// Handle implements caddyevents.Handler. It activates the config, because all its apps have
// started. The config that it replaces may still be stopping.
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

// Stop drains all locks if the process is ending. At a reload, holders and waiters stay.
func (a *App) Stop() error {
	if caddy.Exiting() {
		shutDownAll()
	}
	return nil
}

// Cleanup deactivates the config. It finds the locks first even if the config never started: a
// connection may still come through a listener that layer4 left open when it failed to start.
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
