package place

import (
	"reflect"

	"github.com/mholt/caddy-l4/layer4"
)

// Direct is what a server does with each of its connections, if that is to give it to one lock.
type Direct struct {
	Lock     string
	Priority int
}

// hasMatchers reports whether a route has matchers. Caddy has forgotten their JSON once it has loaded them, and
// caddy-l4 does not show what became of it.
func hasMatchers(route *layer4.Route) bool {
	loaded := reflect.ValueOf(route).Elem().FieldByName("matcherSets")
	return len(route.MatcherSetsRaw) > 0 || loaded.Kind() != reflect.Slice || loaded.Len() > 0
}

// directIn returns what a server of the layer4 app does, if its only route has no matcher. ok is false if that is not
// all: there is another handler, or a refuse handler.
func directIn(server any) (d Direct, ok bool) {
	only := func(list any) any {
		if all, _ := list.([]any); len(all) == 1 {
			return all[0]
		}
		return nil
	}
	config, _ := server.(map[string]any)
	route, _ := only(config["routes"]).(map[string]any)
	value := only(route["handle"])
	handler, _ := value.(map[string]any)
	if refuse, _ := handler["refuse"].([]any); len(refuse) > 0 {
		return Direct{}, false
	}
	priority, _ := handler["priority"].(float64)
	d.Priority = int(priority)
	d.Lock, ok = lockIn(value)
	return d, ok
}
