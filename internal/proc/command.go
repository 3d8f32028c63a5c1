package proc

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Environment returns the environment for a process that Caddy starts: environ without the
// variables that the service manager has set for Caddy alone. With these a process could report to
// the service manager in Caddy's name, or take one of its own descriptors for a socket from the
// service manager.
func Environment(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		if runtime.GOOS == "windows" {
			name = strings.ToUpper(name)
		}
		return name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_")
	})
}

// CheckCommand returns an error if command is empty or has a placeholder. A placeholder could let a
// client choose which program runs.
func CheckCommand(command string) error {
	if command == "" {
		return errors.New("command: found none, expected a name or a path")
	}
	if strings.Contains(command, "{") {
		return fmt.Errorf("command: found %q, expected a name or a path without placeholders", command)
	}
	return nil
}

// CheckVariable returns an error if name cannot be the name of an environment variable.
func CheckVariable(name string) error {
	if name == "" || strings.ContainsAny(name, "={") {
		return fmt.Errorf("env: found name %q, expected one without = and placeholders", name)
	}
	return nil
}
