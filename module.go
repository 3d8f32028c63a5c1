// Package tcplock is a Caddy plugin that puts a FIFO semaphore in front of any TCP
// service: the layer4 handler "tcplock" lets a limited number of connections at a
// time through to the next handler (the proxy), keeps the rest in line in order of
// arrival, and runs hooks at the moments that matter, so that a service that leaks
// or locks up can be restarted between two clients.
//
// Start reading at handler.go (one connection's way through a lock), then internal/queue (the
// semaphore and its rules) and internal/lock (the named lock around it). ARCHITECTURE.md has the
// picture.
package tcplock

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"

	// The plugin is of use only together with caddy-l4's handlers and matchers,
	// so that building Caddy with this one module is enough.
	_ "github.com/mholt/caddy-l4"

	// The modules and commands that come with the plugin.
	_ "github.com/seed-4dbef00f/caddy-tcplock/hook/emit"
	_ "github.com/seed-4dbef00f/caddy-tcplock/hook/exec"
	_ "github.com/seed-4dbef00f/caddy-tcplock/hook/wait"
	_ "github.com/seed-4dbef00f/caddy-tcplock/internal/admin"
	_ "github.com/seed-4dbef00f/caddy-tcplock/internal/cli"
	_ "github.com/seed-4dbef00f/caddy-tcplock/internal/page"
)

func init() {
	caddy.RegisterModule(new(Handler))
	caddy.RegisterModule(new(App))
	caddy.OnExit(func(context.Context) { lock.ShutDown() })
}

// Handler is a layer4 handler that lets a limited number of connections at a time
// through to the handlers after it in its route, and keeps the rest in line, first
// come, first served.
//
// It must stand before the handler that uses the connection up (usually proxy), in
// the same route. It works behind tls and proxy_protocol as well as before them, and
// inside subroute; on a UDP server, in a tee branch, and as the last handler of a
// route the config is refused.
type Handler struct {
	// The lock's name, of 1 to 64 letters, digits and . _ -, and not just dots. Handlers
	// with one name share one lock, across servers and listener wrappers. A handler that
	// sets nothing else (but priority and refuse) joins the lock that another handler of the
	// config defines. A reload can rename a lock, see docs/running.md. Default: "default".
	// Only one handler of a config may leave the name out.
	Name string `json:"name,omitempty"`

	// The settings of the lock. Handlers that share a lock set the same, or nothing.
	lock.Settings

	// The priority of this handler's connections, from -1000 to 1000. They go before those of
	// handlers of the same lock with a lower priority; see also priority_age. Default and
	// zero: 0.
	Priority int `json:"priority,omitempty"`

	// The layer4 handlers that get a refused connection, in order. A connection is refused
	// when the line is full, when wait_timeout has passed, when an activate hook failed, when
	// an operator kicks it from the line, and on shutdown. The placeholder {l4.tcplock.reason}
	// says which. Default: none, the connection is closed.
	RefuseRaw []json.RawMessage `json:"refuse,omitempty" caddy:"namespace=layer4.handlers inline_key=handler"`

	logger  *zap.Logger
	config  *lock.Config
	refusal layer4.Handler // nil: close the connection
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.tcplock",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the handler, loads its modules and registers it with its lock.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	for _, check := range []func() error{h.check, h.CheckMoments, h.CheckWorkers} {
		if err := check(); err != nil {
			return err
		}
	}
	loaded, err := ctx.App("tcplock")
	if err != nil {
		return err
	}
	app := loaded.(*App)
	if err := app.places.Check(ctx.Modules(), h.logger); err != nil {
		return err
	}
	var refusal layer4.Handler
	if h.RefuseRaw != nil {
		mods, err := ctx.LoadModule(h, "RefuseRaw")
		if err != nil {
			return fmt.Errorf("loading refuse handlers: %w", err)
		}
		var handlers layer4.Handlers
		for _, mod := range mods.([]any) {
			handlers = append(handlers, mod.(layer4.NextHandler))
		}
		refusal = handlers.Compile()
	}
	config, err := app.register(ctx, h)
	h.Use(config, refusal)
	return err
}

// check refuses values that are out of range. The Caddyfile calls it after each
// option, so that its error carries the option's file and line.
func (h *Handler) check() error {
	if err := lock.CheckName(h.Name); err != nil {
		return err
	}
	if h.Priority < -maxPriority || h.Priority > maxPriority {
		return fmt.Errorf("priority: found %d, expected a number from %d to %d", h.Priority, -maxPriority, maxPriority)
	}
	return h.Settings.Check()
}

// RefuseHandlers implements place.Refuser.
func (h *Handler) RefuseHandlers() []json.RawMessage { return h.RefuseRaw }

// maxPriority bounds priority, in both directions.
const maxPriority = 1000

// Interface guards
var (
	_ caddy.Provisioner  = (*Handler)(nil)
	_ layer4.NextHandler = (*Handler)(nil)
	_ place.Refuser      = (*Handler)(nil)
)
