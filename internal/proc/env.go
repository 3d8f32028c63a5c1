package proc

import (
	"runtime"
	"slices"
	"strings"
)

// Environment is what a process that Caddy starts inherits of Caddy's environment, or
// of what os/exec makes of that: all but what the service manager has told Caddy alone. With
// it a child could say that Caddy is ready or alive, or take one of its own descriptors
// for a socket that it was given.
func Environment(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		if runtime.GOOS == "windows" {
			name = strings.ToUpper(name)
		}
		return name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_")
	})
}
