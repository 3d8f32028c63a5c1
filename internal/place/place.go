// Package place checks where the locks of a config stand. It also finds the addresses that lead to a
// lock, the order in which connections take locks, and the services behind each lock.
package place

import (
	"cmp"
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

	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

var (
	errTee = errors.New("tcplock cannot stand in a tee branch: the branch shares its client " +
		"with the main chain, which would be stopped and cut as well; put tcplock into the main chain")
	errUDP = errors.New("tcplock cannot stand on a UDP server: a UDP client has no end but a timeout, " +
		"and one that waits in line would stop the packets of all others; use a TCP server")
)

// passOn are caddy-l4's handlers that only prepare a connection for the next one.
var passOn = []string{"postgres_tls", "proxy_protocol", "tcplock", "tee", "throttle", "tls", "vars"}

// hideEnd are the handlers of passOn whose connection has no CloseWrite.
var hideEnd = []string{"proxy_protocol", "tee", "throttle"}

// Places are the places of the locks of one config.
type Places struct {
	Layout Layout
	seen   map[caddy.Module]bool // modules that have been checked
}

func New() Places {
	return Places{
		Layout: Layout{
			Listen:  make(map[string][]string),
			orders:  make(map[lockOrder]string),
			watched: make(map[string]bool),
			Direct:  make(map[string]Direct),
			to:      make(map[string][]string),
			checked: make(map[string][]string),

			settings: make(map[string]settings),
		},
		seen: make(map[caddy.Module]bool),
	}
}

// Refuser is a tcplock handler with handlers for refused connections.
type Refuser interface{ RefuseHandlers() []json.RawMessage }

// Check returns an error if a lock at its place in the config would not hold, or would stop more
// than its own connection. modules lead to the handler, which is the last of them. Only Caddy's
// module tree tells a handler where it stands. The raw configs in the tree stay until all modules
// of their route are loaded. So the first handler sees all of its place, and the others there check
// nothing: with a thousand handlers, each would check a thousand.
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
		for _, name := range slices.Sorted(maps.Keys(place.Servers)) {
			server := place.Servers[name]
			if err := checkChanges(name, server.Listen); err != nil {
				return err
			}
			p.Layout.readServer(name, server.Listen, server.ListenerWrappersRaw, false)
		}
		return p.checkLayout(logger)
	case *layer4.App:
		for _, name := range slices.Sorted(maps.Keys(place.Servers)) {
			server := place.Servers[name]
			if err := checkChanges(name, server.Listen); err != nil {
				return err
			}
			if !p.Layout.readServer(name, server.Listen, map[string]any{"routes": server.Routes},
				len(server.Routes) == 1 && !hasMatchers(server.Routes[0])) {
				continue
			}
			if slices.ContainsFunc(server.Listen, isUDP) {
				return fmt.Errorf("server %s: %w", name, errUDP)
			}
			if err := p.checkRoutes(server.Routes, logger); err != nil {
				return err
			}
			warnOfIdleTimeout(name, server, logger)
		}
		return p.checkLayout(logger)
	case *layer4.ListenerWrapper:
		return p.checkRoutes(place.Routes, logger)
	case *l4subroute.Handler:
		return p.checkRoutes(place.Routes, logger)
	case Refuser:
		return p.checkTerminal(place.RefuseHandlers(), logger)
	}
	return nil
}

// checkChanges refuses listen addresses on which this process cannot listen yet.
func checkChanges(server string, addresses []string) error {
	for _, address := range addresses {
		parsed, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(address, ""))
		if err != nil {
			continue // Caddy refuses it
		}
		if err := listen.CheckChange(parsed); err != nil {
			return fmt.Errorf("server %s: %w", server, err)
		}
	}
	return nil
}

func isUDP(listen string) bool {
	addr, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(listen, ""))
	return err == nil && (strings.HasPrefix(addr.Network, "udp") || addr.Network == "unixgram" || addr.Network == "fdgram")
}

// checkLayout checks the order of locks, and warns of proxies that go past them.
func (p *Places) checkLayout(logger *zap.Logger) error {
	for _, lock := range slices.Sorted(maps.Keys(p.Layout.checked)) {
		logger.Warn("the active health checks of a proxy behind tcplock connect to the service past the lock, also while a connection has the slot; "+
			"set no health_checks.active there (health_interval, health_port, health_timeout in the Caddyfile)",
			zap.String("lock", lock), zap.Strings("upstreams", p.Layout.checked[lock]))
	}
	clear(p.Layout.checked)
	return cmp.Or(p.Layout.checkOrders(), p.Layout.checkWays())
}

// defaultIdleTimeout is the idle_timeout of a server that sets none. caddy-l4 may have set it already.
const defaultIdleTimeout = caddy.Duration(30 * time.Second)

func warnOfIdleTimeout(name string, server *layer4.Server, logger *zap.Logger) {
	if server.IdleTimeout > 0 && server.IdleTimeout != defaultIdleTimeout {
		logger.Warn("caddy-l4 ignores the idle_timeout of a TCP server, so a silent client keeps its slot; set hold_timeout in tcplock, "+
			"which bounds the time with a slot", zap.String("server", name), zap.Duration("idle_timeout", time.Duration(server.IdleTimeout)))
	}
}

func (p *Places) checkRoutes(routes layer4.RouteList, logger *zap.Logger) error {
	for _, route := range routes {
		if err := p.checkTerminal(route.HandlersRaw, logger); err != nil {
			return err
		}
		warnOfHeaders(route.HandlersRaw, logger)
	}
	return nil
}

// handler is what the checks need of a layer4 handler.
type handler struct {
	Handler  string   `json:"handler"`
	Allow    []string `json:"allow"` // of proxy_protocol
	Fallback string   `json:"fallback_policy"`
	Name     string   `json:"name"` // of tcplock
}

func parse(raw json.RawMessage) (h handler) {
	_ = json.Unmarshal(raw, &h) // Caddy refuses an invalid handler when it loads it
	return h
}

// warnOfHeaders looks for a proxy_protocol with an allow list before a tcplock. caddy-l4 (v0.1.2)
// believes headers from other addresses as well, unless they are rejected.
func warnOfHeaders(handlers []json.RawMessage, logger *zap.Logger) {
	believed := false
	for _, raw := range handlers {
		switch h := parse(raw); h.Handler {
		case "proxy_protocol":
			believed = len(h.Allow) > 0 && !strings.EqualFold(h.Fallback, "REJECT")
		case "tcplock":
			if believed {
				logger.Warn("proxy_protocol believes the headers of clients outside its allow list too, so they choose the address " +
					"that logs show and max_per_client counts; put a remote_ip matcher on the route, which keeps them out, or set " +
					"fallback_policy REJECT, which does not believe them")
			}
			return
		}
	}
}

// checkTerminal returns an error if only handlers that pass the connection on follow a tcplock that does not
// connect itself. It cannot see that no route of a subroute matches, or what an unknown handler does: Handle
// refuses the connection then.
func (p *Places) checkTerminal(handlers []json.RawMessage, logger *zap.Logger) error {
	locked, connects, hidden := false, false, ""
	for _, raw := range handlers {
		switch h := parse(raw); {
		case h.Handler == "tcplock":
			locked, connects = true, p.Layout.mayConnect(cmp.Or(h.Name, status.DefaultName))
		case !slices.Contains(passOn, h.Handler):
			locked = false
		case locked && slices.Contains(hideEnd, h.Handler):
			hidden = h.Handler
		}
	}
	if locked && !connects {
		return ErrNotTerminal
	}
	if hidden != "" {
		logger.Warn("tcplock stands before a handler that hides from it that the service has closed its side: linger has no "+
			"effect, and the slot is free when the client has closed as well; put tcplock after it", zap.String("handler", hidden))
	}
	return nil
}
