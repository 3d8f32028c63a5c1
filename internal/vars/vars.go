// Package vars provides the values of a moment or a process: as the placeholders
// {l4.tcplock.<name>}, and as the environment variables TCPLOCK_<NAME> of a command.
package vars

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// AddWorker adds the parts of a worker's address. The host of a unix socket is its path.
func AddWorker(values map[string]string, worker string) {
	host, port := "", ""
	if addr, err := caddy.ParseNetworkAddress(worker); worker != "" && err == nil {
		host = addr.Host
		if addr.StartPort > 0 {
			port = strconv.FormatUint(uint64(addr.StartPort), 10)
		}
	}
	values["worker"], values["worker_host"], values["worker_port"] = worker, host, port
}

// Replacer returns a replacer for Caddy's global placeholders and those of values.
func Replacer(values map[string]string) *caddy.Replacer {
	repl := caddy.NewReplacer()
	for name, value := range values {
		repl.Set("l4.tcplock."+name, value)
	}
	return repl
}

// Check returns an error for a text with placeholders other than Caddy's global ones and those of
// values.
func Check(text string, values map[string]string) error {
	if _, err := Replacer(values).ReplaceOrErr(text, false, true); err != nil {
		known := strings.Join(slices.Sorted(maps.Keys(values)), "|")
		return fmt.Errorf(`found %q: %w, expected {l4.tcplock.%s} or a global one such as {env.*} (a plain brace is \{)`, text, err, known)
	}
	return nil
}

// CheckAll is Check for the texts of a setting with a name, which the error begins with.
func CheckAll(name string, values map[string]string, texts ...string) error {
	for _, text := range texts {
		if err := Check(text, values); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// Environ returns the values as environment variables.
func Environ(values map[string]string) (environ []string) {
	for name, value := range values {
		environ = append(environ, "TCPLOCK_"+strings.ToUpper(name)+"="+value)
	}
	return environ
}
