package lock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
)

// Config is what one Caddy config says about a lock.
type Config struct {
	name     string   // of the lock, in this config
	find     func()   // sets lock, listen, to, connects and detaches, see Configs.find; nil: they are set
	lock     *Lock    // use enter until the config has started
	listen   []string // the addresses that lead to the lock in this config
	to       []string // the addresses to which its connections go
	connects bool     // tcplock itself connects them to the service
	detaches bool     // and nothing before it minds if Handle returns early
	defined  bool     // by a handler with settings, not only joined
	raw      []byte   // these settings as JSON, to be compared
	settings Settings
	hooks    map[string][]*hook.Hook // by moment
	logger   *zap.Logger
	access   *zap.Logger // one line for each connection; nil: no log takes it
	hookLog  *zap.Logger // one line for each run of a hook
	events   *caddyevents.App
	ctx      caddy.Context
	started  chan struct{} // closed when all apps of the config have started
}

func newConfig(name string) *Config { return &Config{name: name, started: make(chan struct{})} }

// hasStarted reports whether all apps of the config have started.
func (c *Config) hasStarted() bool {
	select {
	case <-c.started:
		return true
	default:
		return false
	}
}

// define sets the settings, or compares them with those of an earlier handler of the lock.
func (c *Config) define(ctx caddy.Context, s Settings, logger *zap.Logger) error {
	raw, err := json.Marshal(s.written())
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
	hooks := make(map[string][]*hook.Hook)
	for _, h := range s.Hooks {
		if err := h.Provision(ctx); err != nil {
			return err
		}
		h.CountApart(hooks[h.On])
		hooks[h.On] = append(hooks[h.On], h)
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	c.defined, c.raw, c.settings, c.hooks = true, raw, s, hooks
	c.settings.Workers, _ = s.resolve() // a later change of the environment must not change their number
	c.settings.To = s.to()
	c.events, c.ctx = events.(*caddyevents.App), ctx
	c.logTo(logger)
	return nil
}

func (c *Config) logTo(logger *zap.Logger) {
	logger = safeLog(logger)
	c.logger, c.hookLog = logger, logger.Named("hook")
	if access := logger.Named("access"); access.Check(zapcore.InfoLevel, "") != nil { // to ask for each connection would cost as much as the line
		c.access = access
	}
}

// Configs has the configs of the locks of one Caddy config, by name of the lock.
type Configs struct {
	layout *place.Layout
	byName map[string]*Config
	found  sync.Once // see find
}

// NewConfigs returns no configs yet. The layout is that of the Caddy config. It need not be
// complete before Activate.
func NewConfigs(layout *place.Layout) *Configs {
	return &Configs{layout: layout, byName: make(map[string]*Config)}
}

// Join returns the config of the lock with this name, for a handler that adds no settings.
func (s *Configs) Join(name string) *Config {
	c := s.byName[name]
	if c == nil {
		c = newConfig(name)
		c.find = s.find
		s.byName[name] = c
	}
	return c
}

// Define returns the config of the lock with this name, with these settings. It refuses settings that
// differ from those of an earlier handler.
func (s *Configs) Define(ctx caddy.Context, name string, settings Settings, logger *zap.Logger) (*Config, error) {
	c := s.Join(name)
	return c, c.define(ctx, settings, logger)
}

// Check refuses a lock without settings, and one that leads to itself: a holder would wait for its own
// slot.
func (s *Configs) Check() error {
	for name, c := range s.byName {
		if !c.defined {
			return fmt.Errorf("lock %s: no handler of this config has its settings: add them to one of the handlers with this name (tcplock 1 { name %s })", name, name)
		}
		for _, service := range c.settings.named() {
			for _, address := range s.layout.Addresses(name) {
				if listen.Reaches(service, address) {
					return fmt.Errorf("lock %s: found %s as the address of its service, where the lock itself listens (%s), expected another address", name, service, address)
				}
			}
		}
	}
	return nil
}

// find gives each config its lock. The first connection does it, or the start of the Caddy config,
// whichever comes first.
func (s *Configs) find() {
	s.found.Do(func() {
		for name, c := range s.byName {
			c.listen = s.layout.Addresses(name)
			c.to = s.layout.LeadsTo(name, c.settings.named())
			c.connects = c.settings.To != "" || s.layout.Connects(name)
			c.detaches = c.connects && s.layout.Detaches(name) && mayDetach()
		}
		locks.assign(s.byName, s.layout.Listen)
	})
}

// Activate makes the configs current, because all apps of the Caddy config have started. The
// Caddy config that it replaces may still be stopping.
func (s *Configs) Activate(logger *zap.Logger) {
	s.find()
	warnOfOldLocks(s.byName, s.layout.Listen, logger)
	for _, name := range slices.Sorted(maps.Keys(s.byName)) { // in an order, for the log
		c := s.byName[name]
		c.lock.activate(c)
	}
}

// Takes returns how the locks take the connections of those listen addresses of which they get all.
func (s *Configs) Takes() map[string]listen.Take {
	takes := make(map[string]listen.Take)
	for address, d := range s.layout.Direct {
		if c := s.byName[d.Lock]; c != nil && c.detaches && !strings.HasSuffix(address, ":0") { // several servers may have that
			takes[address] = func(conn *listen.Conn) bool { return c.take(conn, d.Priority) }
		}
	}
	return takes
}

// Deactivate ends the configs. It finds the locks first even if the Caddy config never started: a
// connection may still come through a listener that layer4 left open when it failed to start.
func (s *Configs) Deactivate() {
	s.find()
	for _, c := range s.byName {
		c.lock.deactivate(c)
		c.lock.Exit()
	}
}

// NewAddresses returns those listen addresses that lead to a lock only with these configs, each with
// the name of the lock.
func (s *Configs) NewAddresses() map[string]string {
	fresh := make(map[string]string)
	for address, names := range s.layout.Listen {
		fresh[address] = names[0]
	}
	for _, l := range InForce() {
		if !l.configured() { // the addresses of a former config are open no longer
			continue
		}
		for _, address := range l.current.Load().listen {
			delete(fresh, address)
		}
	}
	return fresh
}
