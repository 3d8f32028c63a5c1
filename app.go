package tcplock

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// App keeps together what the tcplock handlers of one config say of their locks. Caddy
// makes one for each config that has such a handler; there is nothing to configure.
//
// It is an app because an app is told when its config has started and when it is gone:
// a lock's limits must not change for a config that is refused half-way.
type App struct {
	claims  map[string]*claim
	layout  layout
	found   sync.Once             // see findLocks
	unnamed bool                  // there is a handler without a name
	seen    map[caddy.Module]bool // the places in the config that have been checked
	ctx     caddy.Context
	unwatch func() // see watchListeners; nil before
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "tcplock",
		New: func() caddy.Module {
			return &App{claims: make(map[string]*claim), layout: newLayout(), seen: make(map[caddy.Module]bool)}
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

// register adds a handler to the claim on its lock, and refuses one that contradicts
// the handlers before it.
func (a *App) register(ctx caddy.Context, h *Handler) (*claim, error) {
	if h.Name == "" {
		if a.unnamed {
			return nil, fmt.Errorf("found a second tcplock without a name: name each, or name both alike to share one lock")
		}
		a.unnamed = true
	}
	name := h.lockName()
	c := a.claims[name]
	if c == nil {
		c = &claim{app: a, name: name}
		a.claims[name] = c
	}
	if h.Name != "" && h.Settings.empty() {
		return c, nil // it joins
	}
	return c, c.define(ctx, h)
}

// define makes h's settings those of the claim, or compares them with those it has.
func (c *claim) define(ctx caddy.Context, h *Handler) error {
	raw, err := json.Marshal(h.Settings.written())
	if err != nil {
		return err
	}
	if c.defined {
		if !bytes.Equal(raw, c.raw) {
			return fmt.Errorf("lock %s: found other settings than in the handler before (%s): set the same in both, or in one of them nothing but the name",
				c.name, differences(raw, c.raw))
		}
		return nil
	}
	hooks := make(map[string][]*Hook)
	for _, hook := range h.Hooks {
		if err := hook.provision(ctx); err != nil {
			return err
		}
		for slices.ContainsFunc(hooks[hook.On], func(other *Hook) bool { return other.key == hook.key }) {
			hook.key += "+" // twins count on their own
		}
		hooks[hook.On] = append(hooks[hook.On], hook)
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	c.defined, c.raw, c.settings, c.hooks = true, raw, h.Settings, hooks
	c.settings.Workers, _ = h.Settings.resolve() // what stands in the environment later must not change their number
	c.events, c.ctx = events.(*caddyevents.App), ctx
	c.logTo(h.logger)
	return nil
}

func (c *claim) logTo(logger *zap.Logger) {
	c.logger, c.access, c.hookLog = logger, logger.Named("access"), logger.Named("hook")
}

// Start refuses a config that leaves it open what one of its locks is, and one that listens
// where another process does: caddy validate beside a running Caddy only provisions a config,
// and is not refused. What the locks are changes later, see Handle.
func (a *App) Start() error {
	for name, c := range a.claims {
		if !c.defined {
			return fmt.Errorf("lock %s: no handler of this config says what it is: give one of those that have this name its settings (tcplock 1 { name %s })", name, name)
		}
	}
	return listenElsewhere(a.newAddresses())
}

// newAddresses returns the listen addresses that lead to a lock only with this config, each with
// the name of the lock.
func (a *App) newAddresses() map[string]string {
	fresh := make(map[string]string)
	for address, names := range a.layout.listen {
		fresh[address] = names[0]
	}
	for _, l := range locksInForce() {
		if !l.configured() { // the addresses of a former config are open no longer
			continue
		}
		for _, address := range l.inForce.Load().listen {
			delete(fresh, address)
		}
	}
	return fresh
}

// Handle implements caddyevents.Handler: all apps of the config have started, and it
// comes into force. The config it replaces may take its time to stop.
func (a *App) Handle(_ context.Context, e caddy.Event) error {
	if e.Origin() != nil {
		return nil // not Caddy's own
	}
	a.findLocks()
	a.warnOfOldLocks()
	for _, name := range slices.Sorted(maps.Keys(a.claims)) { // in an order, for the log
		c := a.claims[name]
		c.lock.push(c)
	}
	if app, err := a.ctx.AppIfConfigured("layer4"); err == nil {
		a.unwatch = watchListeners(app.(*layer4.App).Servers, a.ctx.Logger())
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

// shutDownAll shuts all locks down, once in the life of the process. If the last config has
// none, connections may still be in those of the configs before.
var shutDownAll = sync.OnceFunc(func() {
	var ends sync.WaitGroup
	for _, l := range locks.list() {
		ends.Go(l.shutDown)
	}
	ends.Wait()
	waitForProcesses() // of locks that are no more
})

// warnOfOldLocks warns of locks that still have connections while an address that led to
// them leads to another lock now, where they are not renamed: both serve that address until
// the old one is empty. It is called before the config is in force.
func (a *App) warnOfOldLocks() {
	for _, old := range locksInForce() {
		s := old.queue.Stats()
		leftOver := old.leftOver.Load()
		if s.Held == 0 && s.Waiting == 0 && leftOver == 0 {
			continue
		}
		for _, address := range old.inForce.Load().listen {
			if lock := a.newcomer(address, old); lock != "" {
				a.ctx.Logger().Warn("listen address leads to another lock now, and its former lock still has connections: until they end, both locks may let connections through to one service",
					zap.String("address", address), zap.String("lock", lock), zap.String("former_lock", old.name()),
					zap.Int("holders", s.Held), zap.Int("waiters", s.Waiting), zap.Int64("left_over", leftOver))
			}
		}
	}
}

// newcomer returns the name of a lock to which the address leads only now. It returns "" if
// there is none, or if the address still leads to the old lock.
func (a *App) newcomer(address string, old *lock) (name string) {
	for _, here := range a.layout.listen[address] {
		c := a.claims[here]
		if c == nil {
			continue
		}
		if c.lock == old {
			return ""
		}
		if before := c.lock.inForce.Load(); before == nil || !slices.Contains(before.listen, address) {
			name = here
		}
	}
	return name
}

// Cleanup takes the config's settings out of force. A connection may come even after that,
// by a listener that layer4 leaves open when it fails to start, so the locks are found in
// any case.
func (a *App) Cleanup() error {
	a.findLocks()
	if a.unwatch != nil {
		a.unwatch()
	}
	for _, c := range a.claims {
		c.lock.pop(c)
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
