package place

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Layout says where the locks of a config stand. It is read from the raw JSON.
type Layout struct {
	Listen  map[string][]string  // the names of the locks behind each listen address
	Direct  map[string]Direct    // the addresses of which all connections go to one lock
	orders  map[lockOrder]string // the orders in which a connection takes locks, and the first place of each
	to      map[string][]string  // the addresses that the proxies behind a lock dial, by the lock's name
	checked map[string][]string  // those of them with active health checks, until a warning has named them
	locks   int                  // handlers found so far

	watched  map[string]bool     // the locks behind a handler that may have something to do when tcplock returns
	settings map[string]settings // by the lock's name; none if no handler that defines it has been read
	ends     []end               // of all tcplock handlers
}

// lockOrder says that a connection can hold the outer lock while it waits for the inner one.
type lockOrder struct{ outer, inner string }

// spot is a place in the JSON.
type spot struct {
	where  string   // for errors
	listen []string // the addresses of its server
	held   []string // the locks that a connection holds there

	watched bool // behind or inside a handler that may have something to do when the next one returns
}

func (s spot) in(part string) spot {
	s.where += ", " + part
	return s
}

// readServer reads the locks of a server, and reports whether it has any. direct says that the server has one
// route, without a matcher. The raw JSON is complete only
// while the first handler of the app is provisioned, see Places.Check.
func (y *Layout) readServer(name string, listen []string, config any, direct bool) (locked bool) {
	before := y.locks
	raw, err := json.Marshal(config)
	var value any
	if err == nil && json.Unmarshal(raw, &value) == nil { // Caddy refuses invalid JSON when it loads it
		y.read(value, spot{where: "server " + name, listen: addressesOf(listen)})
		if d, ok := directIn(value); ok && direct {
			for _, address := range addressesOf(listen) {
				y.Direct[address] = d
			}
		}
	}
	return y.locks > before
}

// read looks for locks at any depth, because any handler may have routes of its own. In a list of
// handlers, a connection that has come through a lock holds it in the handlers that follow, and in all
// that they contain. A refused connection does not hold the lock whose refuse handlers it gets, but it
// holds all locks before that one.
func (y *Layout) read(value any, at spot) {
	switch value := value.(type) {
	case []any:
		for i, v := range value {
			y.read(v, at)
			if name, ok := lockIn(v); ok {
				y.noteEnd(name, v, at, value[i+1:])
				at.held = append(slices.Clip(at.held), name)
			}
			at.watched = at.watched || watches(v)
		}
	case map[string]any:
		if name, ok := lockIn(value); ok {
			y.note(name, at)
			at = at.in("lock " + name)
		}
		at.watched = at.watched || watches(value)
		y.noteProxy(value, at.held)
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if routes, ok := value[key].([]any); ok && key == "routes" {
				for i, route := range routes {
					y.read(route, at.in(fmt.Sprintf("route %d", i+1)))
				}
			} else {
				y.read(value[key], at)
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

// watches reports whether value is a handler that may have something to do when the next one returns.
func watches(value any) bool {
	handler, _ := value.(map[string]any)
	name, isHandler := handler["handler"].(string)
	return isHandler && name != "vars" && name != "subroute"
}

// Detaches reports whether Handle may return before the connections of a lock have ended.
func (y *Layout) Detaches(lock string) bool { return !y.watched[lock] }

func (y *Layout) note(name string, at spot) {
	y.locks++
	if at.watched {
		y.watched[name] = true
	}
	for _, address := range at.listen {
		y.Listen[address] = addNew(y.Listen[address], name)
	}
	if slices.Contains(at.held, name) {
		return // Handle refuses the connection here, so it does not wait
	}
	for _, outer := range at.held {
		if o := (lockOrder{outer, name}); y.orders[o] == "" {
			y.orders[o] = at.where
		}
	}
}

// noteProxy notes the addresses that value dials, if it is a proxy handler and held has locks.
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
			y.to[lock] = addNew(y.to[lock], upstream.Dial...)
			if proxy.HealthChecks != nil && proxy.HealthChecks.Active != nil {
				y.checked[lock] = addNew(y.checked[lock], upstream.Dial...)
			}
		}
	}
}

// addNew appends the strings that list does not have.
func addNew(list []string, more ...string) []string {
	for _, one := range more {
		if !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	return list
}

// LeadsTo returns the addresses to which a lock's connections go. own are those of its settings. They stand
// for the placeholders of the worker.
func (y *Layout) LeadsTo(lock string, own []string) (all []string) {
	if y.Connects(lock) {
		return own
	}
	for _, address := range y.to[lock] {
		if strings.Contains(address, "{l4.tcplock.worker") {
			all = addNew(all, own...)
		} else {
			all = addNew(all, address)
		}
	}
	return all
}

// Addresses returns the listen addresses that lead to a lock.
func (y *Layout) Addresses(lock string) (all []string) {
	for _, address := range slices.Sorted(maps.Keys(y.Listen)) {
		if slices.Contains(y.Listen[address], lock) {
			all = append(all, address)
		}
	}
	return all
}

// addressesOf returns listen addresses in one spelling, so that they can be compared across configs. A
// TCP address is the same on each of Caddy's networks.
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

// checkOrders returns an error if connections take locks in different orders. Then each of two
// connections could hold the lock that the other one waits for. More locks can form a longer circle.
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
