package proc

import (
	"errors"
	"fmt"
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

// CheckCommand refuses what cannot be a command, and placeholders: what a command is must not
// depend on what a client sends.
func CheckCommand(command string) error {
	if command == "" {
		return errors.New("command: found none, expected a name or a path")
	}
	if strings.Contains(command, "{") {
		return fmt.Errorf("command: found %q, expected a name or a path without placeholders", command)
	}
	return nil
}

// CheckVariable refuses what cannot be the name of a variable for a command.
func CheckVariable(name string) error {
	if name == "" || strings.ContainsAny(name, "={") {
		return fmt.Errorf("env: found name %q, expected one without = and placeholders", name)
	}
	return nil
}
