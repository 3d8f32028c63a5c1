package lock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
)

// Config is what one Caddy config says about a lock.
type Config struct {
	name     string   // of the lock, in this config
	find     func()   // sets lock, listen and to, see Configs.find; nil: they are set
	lock     *Lock    // use enter until the config has started
	listen   []string // the addresses that lead to the lock in this config
	to       []string // the addresses that its connections are proxied to
	defined  bool     // by a handler with settings, not only joined
	raw      []byte   // these settings as JSON, to be compared
	settings Settings
	hooks    map[string][]*hook.Hook // by moment
	logger   *zap.Logger
	access   *zap.Logger // one line for each connection
	hookLog  *zap.Logger // one line for each run of a hook
	events   *caddyevents.App
	ctx      caddy.Context
	started  atomic.Bool // all apps of the config have started
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
	for _, hook := range s.Hooks {
		if err := hook.Provision(ctx); err != nil {
			return err
		}
		hook.CountApart(hooks[hook.On])
		hooks[hook.On] = append(hooks[hook.On], hook)
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	c.defined, c.raw, c.settings, c.hooks = true, raw, s, hooks
	c.settings.Workers, _ = s.resolve() // a later change of the environment must not change their number
	c.events, c.ctx = events.(*caddyevents.App), ctx
	c.logTo(logger)
	return nil
}

func (c *Config) logTo(logger *zap.Logger) {
	c.logger, c.access, c.hookLog = logger, logger.Named("access"), logger.Named("hook")
}
