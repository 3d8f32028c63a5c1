package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// Each way of building Caddy tells the versions.
func TestVersions(t *testing.T) {
	const lock, caddy, l4 = "github.com/seed-4dbef00f/caddy-tcplock", "github.com/caddyserver/caddy/v2", "github.com/mholt/caddy-l4"
	module := func(path, version string) *debug.Module { return &debug.Module{Path: path, Version: version} }
	replaced := func(path, by, version string) *debug.Module {
		return &debug.Module{Path: path, Version: "v0.0.1", Replace: module(by, version)}
	}
	for name, c := range map[string]struct {
		main *debug.Module
		deps []*debug.Module
		want Versions
	}{
		"in a clone": {
			module(lock, "v0.1.0"), []*debug.Module{module(caddy, "v2.11.9"), module(l4, "v0.1.2")},
			Versions{Tcplock: "v0.1.0", Caddy: "v2.11.9", CaddyL4: "v0.1.2"},
		},
		"in a tree without git": {
			module(lock, "(devel)"), []*debug.Module{module(caddy, "v2.11.9"), module(l4, "v0.1.2")},
			Versions{Tcplock: "devel", Caddy: "v2.11.9", CaddyL4: "v0.1.2"},
		},
		"xcaddy, a released version": {
			module("caddy", "(devel)"), []*debug.Module{module(caddy, "v2.11.9"), module(lock, "v0.1.0"), module(l4, "v0.1.2")},
			Versions{Tcplock: "v0.1.0", Caddy: "v2.11.9", CaddyL4: "v0.1.2"},
		},
		"xcaddy, a tree, and a fork of Caddy": {
			module("caddy", "(devel)"), []*debug.Module{replaced(caddy, "example.com/caddy", "v2.11.10"), replaced(lock, "/src/tcplock", ""), module(l4, "v0.1.2")},
			Versions{Tcplock: "devel", Caddy: "v2.11.10", CaddyL4: "v0.1.2"},
		},
		"a test": {module(lock, ""), nil, Versions{Tcplock: "devel", Caddy: "devel", CaddyL4: "devel"}},
	} {
		if got := of(&debug.BuildInfo{Main: *c.main, Deps: c.deps}); got != c.want {
			t.Errorf("%s: found %+v, expected %+v", name, got, c.want)
		}
	}
	if got := Get(); got.Go != runtime.Version() {
		t.Errorf("found %+v, expected Go %s", got, runtime.Version())
	}
}
