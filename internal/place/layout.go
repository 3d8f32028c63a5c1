package place

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/listen"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Layout is where the locks of a config stand, as the raw JSON tells: the locks behind each
// listen address, the order in which a connection comes to them, and where it leads after them.
type Layout struct {
	Listen  map[string][]string  // names of locks, by address
	orders  map[lockOrder]string // and the first place in the config that has the order
	to      map[string][]string  // the addresses that the proxy handlers behind a lock dial, by its name
	checked map[string][]string  // those of them whose health their proxy checks, until a warning has named them
}

// lockOrder says that a connection can hold the outer lock while it waits for the inner one.
type lockOrder struct{ outer, inner string }

// spot is a place in the JSON.
type spot struct {
	where  string
	listen []string // the addresses of its server
	held   []string // the locks that a connection has come through on its way there
}

func (s spot) in(part string) spot {
	s.where += ", " + part
	return s
}

func newLayout() Layout {
	return Layout{
		Listen:  make(map[string][]string),
		orders:  make(map[lockOrder]string),
		to:      make(map[string][]string),
		checked: make(map[string][]string),
	}
}

// readApp reads what an app's servers have of locks. It must be read when the first handler
// of the app is provisioned, as places.check says.
func (y *Layout) readApp(app caddy.Module) error {
	switch app := app.(type) {
	case *layer4.App:
		for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
			if err := y.readServer(name, app.Servers[name].Listen, map[string]any{"routes": app.Servers[name].Routes}); err != nil {
				return err
			}
		}
	case *caddyhttp.App:
		for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
			if err := y.readServer(name, app.Servers[name].Listen, app.Servers[name].ListenerWrappersRaw); err != nil {
				return err
			}
		}
	}
	return y.checkOrders()
}

func (y *Layout) readServer(name string, addresses []string, config any) error {
	for _, address := range addresses {
		parsed, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(address, ""))
		if err != nil {
			continue // Caddy refuses it
		}
		if err := listen.CheckChange(parsed); err != nil {
			return fmt.Errorf("server %s: %w", name, err)
		}
	}
	raw, err := json.Marshal(config)
	var value any
	if err == nil && json.Unmarshal(raw, &value) == nil { // Caddy refuses what is no JSON when it loads it
		y.read(value, spot{where: "server " + name, listen: addressesOf(addresses)})
	}
	return nil
}

// read looks for locks at any depth: any handler may have routes of its own. In a list of
// handlers, a connection that has come through a lock holds it in those that follow, and in
// all that they contain. A connection that is refused does not hold the lock whose refuse
// handlers it gets, but all before it.
func (y *Layout) read(value any, at spot) {
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			y.read(v, at)
			if name, ok := lockIn(v); ok {
				at.held = append(slices.Clip(at.held), name)
			}
		}
	case map[string]any:
		if name, ok := lockIn(value); ok {
			y.note(name, at)
			at = at.in("lock " + name)
		}
		y.noteProxy(value, at.held)
		for _, key := range slices.Sorted(maps.Keys(value)) {
			routes, ok := value[key].([]any)
			if !ok || key != "routes" {
				y.read(value[key], at)
				continue
			}
			for i, route := range routes {
				y.read(route, at.in(fmt.Sprintf("route %d", i+1)))
			}
		}
	}
}

// lockIn returns the name of the lock if value is a tcplock handler.
func lockIn(value any) (name string, ok bool) {
	handler, _ := value.(map[string]any)
	if handler["handler"] != "tcplock" {
		return "", false
	}
	name, _ = handler["name"].(string)
	return cmp.Or(name, status.DefaultName), true
}

func (y *Layout) note(name string, at spot) {
	for _, address := range at.listen {
		if !slices.Contains(y.Listen[address], name) {
			y.Listen[address] = append(y.Listen[address], name)
		}
	}
	if slices.Contains(at.held, name) {
		return // Handle refuses the connection here, see meet, so it does not wait
	}
	for _, outer := range at.held {
		if o := (lockOrder{outer, name}); y.orders[o] == "" {
			y.orders[o] = at.where
		}
	}
}

// noteProxy notes where connections that hold these locks get to, if value is a proxy handler.
func (y *Layout) noteProxy(value map[string]any, held []string) {
	if value["handler"] != "proxy" || len(held) == 0 {
		return
	}
	raw, err := json.Marshal(value)
	var proxy l4proxy.Handler
	if err != nil || json.Unmarshal(raw, &proxy) != nil { // Caddy refuses it when it loads it
		return
	}
	for _, upstream := range proxy.Upstreams {
		for _, lock := range held {
			y.to[lock] = addNew(y.to[lock], upstream.Dial)
			if proxy.HealthChecks != nil && proxy.HealthChecks.Active != nil {
				y.checked[lock] = addNew(y.checked[lock], upstream.Dial)
			}
		}
	}
}

// addNew appends those that are not there yet.
func addNew(list, more []string) []string {
	for _, one := range more {
		if !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	return list
}

// LeadsTo returns the addresses that a lock's connections are proxied to. Placeholders of the worker
// stand for the workers.
func (y *Layout) LeadsTo(lock string, workers []string) (all []string) {
	for _, address := range y.to[lock] {
		if strings.Contains(address, "{l4.tcplock.worker") {
			all = addNew(all, workers)
		} else {
			all = addNew(all, []string{address})
		}
	}
	return all
}

// Addresses returns those that lead to a lock.
func (y *Layout) Addresses(lock string) (all []string) {
	for _, address := range slices.Sorted(maps.Keys(y.Listen)) {
		if slices.Contains(y.Listen[address], lock) {
			all = append(all, address)
		}
	}
	return all
}

// addressesOf writes listen addresses out, so that the same address is the same string in all
// configs. A TCP address is the same whichever of Caddy's networks listens on it.
func addressesOf(listen []string) (all []string) {
	for _, l := range listen {
		address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(l, ""))
		if err != nil {
			continue // Caddy refuses it
		}
		if address.IsUnixNetwork() || address.IsFdNetwork() {
			path, _, _ := strings.Cut(address.Host, "|") // and the permissions
			all = append(all, address.Network+"/"+path)
			continue
		}
		if address.Host == "0.0.0.0" || address.Host == "::" {
			address.Host = ""
		}
		for _, one := range address.Expand() {
			all = append(all, one.JoinHostPort(0))
		}
	}
	return all
}

// checkOrders returns an error if connections take locks in different orders: each of two
// connections could hold the lock for which the other one waits. With more locks the same happens
// in a circle.
func (y *Layout) checkOrders() error {
	inner := make(map[string][]string)
	for o := range y.orders {
		inner[o.outer] = append(inner[o.outer], o.inner)
	}
	var shortest []string
	for _, lock := range slices.Sorted(maps.Keys(inner)) {
		slices.Sort(inner[lock])
		if circle := circleFrom(lock, inner); circle != nil && (shortest == nil || len(circle) < len(shortest)) {
			shortest = circle
		}
	}
	if shortest == nil {
		return nil
	}
	var found []string
	for i, outer := range shortest {
		next := shortest[(i+1)%len(shortest)]
		found = append(found, fmt.Sprintf("lock %s before lock %s (%s)", outer, next, y.orders[lockOrder{outer, next}]))
	}
	return fmt.Errorf("found %s, expected the same order on every route: connections that each hold one of these locks "+
		"and wait for the next would wait for each other for ever", strings.Join(found, ", "))
}

// circleFrom returns the locks of the shortest way from a lock back to itself, or nil.
func circleFrom(lock string, inner map[string][]string) (circle []string) {
	from := make(map[string]string)
	for next := []string{lock}; len(next) > 0; next = next[1:] {
		for _, to := range inner[next[0]] {
			if to == lock {
				for at := next[0]; at != lock; at = from[at] {
					circle = append(circle, at)
				}
				circle = append(circle, lock)
				slices.Reverse(circle)
				return circle
			}
			if _, seen := from[to]; !seen {
				from[to] = next[0]
				next = append(next, to)
			}
		}
	}
	return nil
}
