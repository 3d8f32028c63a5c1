// Package place says where in a config a lock may stand, and what its place tells: the addresses that
// lead to it, the order of locks on a way, and the services behind it.
package place

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4subroute"
	"github.com/mholt/caddy-l4/modules/l4tee"
	"go.uber.org/zap"
)

var (
	errTee = errors.New("tcplock cannot stand in a tee branch: the branch shares its client " +
		"with the main chain, which would be stopped and cut as well; put tcplock into the main chain")
	errUDP = errors.New("tcplock cannot stand on a UDP server: a UDP client has no end but a timeout, " +
		"and one that waits in line would stop the packets of all others; use a TCP server")
	ErrNotTerminal = errors.New("tcplock must be followed, in the same route, by a handler that uses the " +
		"connection up (proxy, echo ...): otherwise its slot would be given back before the service is reached")
)

// passOn are caddy-l4's handlers that only prepare a connection for the next one.
var passOn = []string{"postgres_tls", "proxy_protocol", "tcplock", "tee", "throttle", "tls", "vars"}

// hideEnd are those of them whose connection has no CloseWrite.
var hideEnd = []string{"proxy_protocol", "tee", "throttle"}

// Places are those of one config at which its locks stand.
type Places struct {
	Layout Layout
	seen   map[caddy.Module]bool // they have been checked
}

func New() Places { return Places{Layout: newLayout(), seen: make(map[caddy.Module]bool)} }

// Refuser is a tcplock handler with handlers for refused connections.
type Refuser interface{ RefuseHandlers() []json.RawMessage }

// Check returns an error if a lock at its place in the config would not hold, or would stop more
// than its own connection. modules lead to the handler, which is the last of them. Only Caddy's
// module tree tells a handler where it stands. The raw configs in the tree stay until all modules
// of their route are loaded. So the first handler sees everything in a place, and the handlers
// after it need not look: with a thousand of them, each would look at a thousand.
func (p *Places) Check(modules []caddy.Module, logger *zap.Logger) error {
	if err := p.checkPlace(modules[0], logger); err != nil {
		return err
	}
	if slices.ContainsFunc(modules, func(m caddy.Module) bool { _, tee := m.(*l4tee.Handler); return tee }) {
		return errTee
	}
	return p.checkPlace(modules[max(0, len(modules)-2)], logger)
}

func (p *Places) checkPlace(place caddy.Module, logger *zap.Logger) error {
	if p.seen[place] {
		return nil
	}
	p.seen[place] = true
	switch place := place.(type) {
	case *caddyhttp.App:
		return p.readLayout(place, logger)
	case *layer4.App:
		for name, server := range place.Servers {
			if err := checkNotUDP(server); err != nil {
				return fmt.Errorf("server %s: %w", name, err)
			}
			if err := checkRoutes(server.Routes, logger); err != nil {
				return err
			}
			warnOfIdleTimeout(name, server, logger)
		}
		return p.readLayout(place, logger)
	case *layer4.ListenerWrapper:
		return checkRoutes(place.Routes, logger)
	case *l4subroute.Handler:
		return checkRoutes(place.Routes, logger)
	case Refuser:
		return checkTerminal(place.RefuseHandlers(), logger)
	}
	return nil
}

// readLayout reads where the locks of an app stand, and warns of proxies behind them that go past
// them.
func (p *Places) readLayout(app caddy.Module, logger *zap.Logger) error {
	if err := p.Layout.readApp(app); err != nil {
		return err
	}
	for _, lock := range slices.Sorted(maps.Keys(p.Layout.checked)) {
		logger.Warn("the active health checks of a proxy behind tcplock connect to the service past the lock, also while a connection has the slot; "+
			"set no health_checks.active there (health_interval, health_port, health_timeout in the Caddyfile)",
			zap.String("lock", lock), zap.Strings("upstreams", p.Layout.checked[lock]))
	}
	clear(p.Layout.checked)
	return nil
}

// defaultIdleTimeout is what caddy-l4 gives a server that sets none, maybe before the first lock
// gets to look.
const defaultIdleTimeout = caddy.Duration(30 * time.Second)

// warnOfIdleTimeout looks for an idle_timeout in a server that has a lock, and so is not for UDP.
func warnOfIdleTimeout(name string, server *layer4.Server, logger *zap.Logger) {
	if server.IdleTimeout > 0 && server.IdleTimeout != defaultIdleTimeout && hasLock(server) {
		logger.Warn("caddy-l4 ignores the idle_timeout of a TCP server, so that a silent client keeps its slot; set hold_timeout in tcplock, "+
			"which bounds the time with a slot", zap.String("server", name), zap.Duration("idle_timeout", time.Duration(server.IdleTimeout)))
	}
}

func checkRoutes(routes layer4.RouteList, logger *zap.Logger) error {
	for _, route := range routes {
		if err := checkTerminal(route.HandlersRaw, logger); err != nil {
			return err
		}
		warnOfHeaders(route.HandlersRaw, logger)
	}
	return nil
}

// warnOfHeaders looks for a proxy_protocol with an allow list before a tcplock. caddy-l4 (v0.1.2)
// believes headers from other addresses as well, unless they are rejected.
func warnOfHeaders(handlers []json.RawMessage, logger *zap.Logger) {
	believed := false
	for _, raw := range handlers {
		var handler struct {
			Handler  string   `json:"handler"`
			Allow    []string `json:"allow"`
			Fallback string   `json:"fallback_policy"`
		}
		_ = json.Unmarshal(raw, &handler)
		switch handler.Handler {
		case "proxy_protocol":
			believed = len(handler.Allow) > 0 && !strings.EqualFold(handler.Fallback, "REJECT")
		case "tcplock":
			if believed {
				logger.Warn("proxy_protocol believes the headers of clients outside its allow list too, so that they choose the address " +
					"that logs show and max_per_client counts; put a remote_ip matcher on the route, which keeps them out, or set " +
					"fallback_policy REJECT, which does not believe them")
			}
			return
		}
	}
}

// checkTerminal returns an error if only handlers that pass the connection on follow a tcplock.
// (It cannot see a subroute of which no route matches, or an unknown handler: Handle refuses the
// connection then.)
func checkTerminal(handlers []json.RawMessage, logger *zap.Logger) error {
	locked, hidden := false, ""
	for _, raw := range handlers {
		switch name := handlerName(raw); {
		case name == "tcplock":
			locked = true
		case !slices.Contains(passOn, name):
			locked = false
		case locked && slices.Contains(hideEnd, name):
			hidden = name
		}
	}
	if locked {
		return ErrNotTerminal
	}
	if hidden != "" {
		logger.Warn("tcplock stands before a handler that hides from it that the service has closed its side: linger has no "+
			"effect, and the slot is free when the client has closed as well; put tcplock after it", zap.String("handler", hidden))
	}
	return nil
}

func handlerName(raw json.RawMessage) string {
	var handler struct {
		Handler string `json:"handler"`
	}
	_ = json.Unmarshal(raw, &handler) // what is not a handler, Caddy refuses when it loads it
	return handler.Handler
}

func checkNotUDP(server *layer4.Server) error {
	udp := slices.ContainsFunc(server.Listen, func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(listen, ""))
		return err == nil && (strings.HasPrefix(addr.Network, "udp") || addr.Network == "unixgram" || addr.Network == "fdgram")
	})
	if udp && hasLock(server) {
		return errUDP
	}
	return nil
}

func hasLock(server *layer4.Server) bool {
	for _, route := range server.Routes {
		for _, raw := range route.HandlersRaw {
			var handler any
			if json.Unmarshal(raw, &handler) == nil && containsLock(handler) {
				return true
			}
		}
	}
	return false
}

// containsLock looks for a tcplock handler at any depth of a JSON value.
func containsLock(value any) bool {
	switch value := value.(type) {
	case map[string]any:
		if value["handler"] == "tcplock" {
			return true
		}
		for _, v := range value {
			if containsLock(v) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(value, containsLock)
	}
	return false
}
