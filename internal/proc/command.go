package proc

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
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

// Spec is a command as a config has it. Its texts take Caddy's global placeholders and those of the
// values with which it is prepared.
type Spec struct {
	Command string // without placeholders
	Args    []string
	Dir     string
	Env     map[string]string // wins over the environment that it gets otherwise
}

// Check returns an error if the command cannot be started, whatever the values are.
func (s Spec) Check(values map[string]string) error {
	switch { // a placeholder could let a client choose which program runs
	case s.Command == "":
		return errors.New("command: found none, expected a name or a path")
	case strings.Contains(s.Command, "{"):
		return fmt.Errorf("command: found %q, expected a name or a path without placeholders", s.Command)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if name == "" || strings.ContainsAny(name, "={") {
			return fmt.Errorf("env: found name %q, expected one without = and placeholders", name)
		}
		if err := vars.CheckAll("env: "+name, values, s.Env[name]); err != nil {
			return err
		}
	}
	return cmp.Or(vars.CheckAll("args", values, s.Args...), vars.CheckAll("dir", values, s.Dir))
}

// Prepare returns the command. Its environment is Caddy's, the values, and its own, see Environment.
func (s Spec) Prepare(values map[string]string) (*exec.Cmd, error) {
	hideSockets()
	var errs []error
	repl := vars.Replacer(values)
	replace := func(text string) string {
		value, err := repl.ReplaceOrErr(text, false, true)
		errs = append(errs, err)
		return value
	}
	cmd := exec.Command(s.Command)
	for _, arg := range s.Args {
		cmd.Args = append(cmd.Args, replace(arg))
	}
	if cmd.Dir = replace(s.Dir); cmd.Dir != "" {
		// Checked here, because the error of a start names the command only.
		if info, err := os.Stat(cmd.Dir); err != nil || !info.IsDir() {
			errs = append(errs, fmt.Errorf("dir: found no directory %s", cmd.Dir))
		}
	}
	cmd.Env = append(Environment(cmd.Environ()), vars.Environ(values)...)
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+replace(value))
	}
	return cmd, errors.Join(append(errs, cmd.Err)...)
}
