package tcplock

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// App collects what the tcplock handlers of one Caddy config say about their locks. Caddy makes
// one App for each config that has such a handler. It has no settings.
//
// It is an app because Caddy tells an app when its config has started and when it has ended.
// A config that fails half-way must not change a lock's limits.
type App struct {
	configs *lock.Configs
	places  place.Places
	unnamed bool // there is a handler without a name
	ctx     caddy.Context
	guard   *listen.Guard // of the layer4 servers; nil: not started
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "tcplock",
		New: func() caddy.Module {
			a := &App{places: place.New()}
			a.configs = lock.NewConfigs(&a.places.Layout)
			return a
		},
	}
}

// Provision registers the metrics of all locks with the config's registry, and subscribes to
// Caddy's events, see Handle.
func (a *App) Provision(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	a.ctx = ctx
	if err := ctx.GetMetricsRegistry().Register(lock.Collector{}); err != nil {
		return err
	}
	return errors.Join(events.(*caddyevents.App).On("started", a), events.(*caddyevents.App).On("stopping", a))
}

// register adds a handler to the config of its lock. It refuses a handler that contradicts an
// earlier one.
func (a *App) register(ctx caddy.Context, h *Handler) (*lock.Config, error) {
	if h.Name == "" {
		if a.unnamed {
			return nil, fmt.Errorf("found a second tcplock without a name: name each, or name both alike to share one lock")
		}
		a.unnamed = true
	}
	if h.Name != "" && h.Settings.Empty() {
		return a.configs.Join(h.Name), nil
	}
	return a.configs.Define(ctx, cmp.Or(h.Name, status.DefaultName), h.Settings, h.logger)
}

// Start refuses a config in which a lock has no settings, and a config that listens where another
// process listens. Provision does not check that: caddy validate provisions a config beside a
// running Caddy, and must succeed. The locks change later, see Handle.
func (a *App) Start() error {
	if err := a.configs.Check(); err != nil {
		return err
	}
	return listen.Elsewhere(a.configs.NewAddresses())
}

// Handle implements caddyevents.Handler. It activates the config when all its apps have started.
func (a *App) Handle(_ context.Context, e caddy.Event) error {
	switch {
	case e.Origin() != nil: // not Caddy's own
	case e.Name() == "started":
		a.configs.Activate(a.ctx.Logger())
		if !a.ctx.Logger().Core().Enabled(zap.DebugLevel) { // else caddy-l4 has lines for each connection
			listen.Direct(a.ctx, a.configs.Takes())
		}
		if app, err := a.ctx.AppIfConfigured("layer4"); err == nil {
			a.guard = listen.Watch(app.(*layer4.App).Servers, a.ctx.Logger())
		}
	case a.guard != nil && !caddy.Exiting():
		a.guard.Stopping()
	}
	return nil
}

// Stop drains all locks if the process is ending. At a reload, holders and waiters stay.
func (a *App) Stop() error {
	if caddy.Exiting() {
		lock.ShutDown()
	}
	return nil
}

// Cleanup deactivates the config.
func (a *App) Cleanup() error {
	if a.guard != nil {
		a.guard.Stop()
	}
	a.configs.Deactivate()
	return nil
}

// Interface guards
var (
	_ caddy.App           = (*App)(nil)
	_ caddy.Provisioner   = (*App)(nil)
	_ caddy.CleanerUpper  = (*App)(nil)
	_ caddyevents.Handler = (*App)(nil)
)
