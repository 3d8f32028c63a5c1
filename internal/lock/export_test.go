package lock

import (
	"context"

	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"go.uber.org/zap"
)

// What the tests outside of this package see of its inside. They are outside because they send
// connections through the handler, which is above this package.

// NewConfig returns a config for l, as Define makes it from settings and hooks.
func NewConfig(l *Lock, name string, s Settings, events *caddyevents.App, log *zap.Logger, hooks ...*hook.Hook) *Config {
	c := newConfig(name)
	c.lock, c.defined, c.settings, c.events, c.hooks = l, true, s, events, make(map[string][]*hook.Hook)
	for _, h := range hooks {
		c.hooks[h.On] = append(c.hooks[h.On], h)
	}
	c.logTo(log)
	return c
}

var EnterLock = locks.enter

// Exits has the exits of the processes of all locks.
var Exits = &locks.exits

func (l *Lock) Activate(c *Config)       { l.activate(c) }
func (l *Lock) Deactivate(c *Config)     { l.deactivate(c) }
func (l *Lock) ShutDown()                { l.shutDown() }
func (l *Lock) Cancel()                  { l.cancel() }
func (l *Lock) Context() context.Context { return l.ctx }
func (l *Lock) Users() int64             { return l.users.Load() }
func (l *Lock) Queue() *queue.Queue      { return l.queue }
func (l *Lock) Pool() *pool.Pool         { return &l.pool }
func (l *Lock) Record() *record.Record   { return l.record }
func (l *Lock) Schedule() *hook.Schedule { return &l.schedule }
func (l *Lock) Settings() Settings       { return l.current.Load().settings }

func (l *Lock) Refusals() *clock.Limit { return &l.refusals }
func (c *Config) Start()               { close(c.started) }
func (c *Config) Unstart()             { c.started = make(chan struct{}) }
func (s *Settings) Pooled() bool       { return s.pooled() }

const RefusalsLogged = refusalsLogged

// MutexHeld reports whether a goroutine holds the lock's mutex.
func (l *Lock) MutexHeld() bool {
	if !l.mu.TryLock() {
		return true
	}
	l.mu.Unlock()
	return false
}

// Inside returns the idle clock, the pause, whether c is current, and the number of configs.
func (l *Lock) Inside(c *Config) []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []any{l.idle.since, l.idle.visits, len(l.idle.ran), *l.pauses.status(), l.current.Load() == c, len(l.configs)}
}

// Hooked reports whether hooks have run for the connection.
func Hooked(cx *layer4.Connection) bool { return cx.GetVar(connVar).(*Waiter).trip.hooked > 0 }
