// Package version knows which versions of tcplock, Caddy and caddy-l4 are in the binary.
package version

import (
	"runtime/debug"
	"sync"
)

// Versions are the versions in a binary, "devel" for a module that was built from a directory without
// a version.
type Versions struct {
	Tcplock string `json:"version"`
	Caddy   string `json:"caddy"`
	CaddyL4 string `json:"caddy_l4"`
	Go      string `json:"go"`
}

// Get returns the versions in this binary. Go notes them in each binary it builds. So all ways of
// building Caddy tell them, and none needs a flag.
var Get = sync.OnceValue(func() Versions {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = new(debug.BuildInfo)
	}
	return of(build)
})

func of(build *debug.BuildInfo) Versions {
	v := Versions{Tcplock: "devel", Caddy: "devel", CaddyL4: "devel", Go: build.GoVersion}
	for _, m := range append(build.Deps, &build.Main) {
		path := m.Path
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "" || m.Version == "(devel)" {
			continue
		}
		switch path {
		case "github.com/seed-4dbef00f/caddy-tcplock":
			v.Tcplock = m.Version
		case "github.com/caddyserver/caddy/v2":
			v.Caddy = m.Version
		case "github.com/mholt/caddy-l4":
			v.CaddyL4 = m.Version
		}
	}
	return v
}
