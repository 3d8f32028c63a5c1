// Package wait is a hook step that waits until a service answers at an address, or until none
// does.
package wait

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
)

func init() { caddy.RegisterModule(new(Step)) }

// Step waits until a service answers at an address, or until none does. It tries at once, and then
// after pauses that grow from 20ms to 250ms. Each try is a connection that listens for 50ms and
// closes its side. It closes when the service has closed too, or after 100ms.
type Step struct {
	// The address: host:port or unix//path. It takes Caddy's global placeholders and
	// {l4.tcplock.*}. Required.
	Address string `json:"address"`

	// What to wait for. "open": a connection succeeds and is not closed at once. "closed": a
	// connection is refused (or there is no such socket file), or it is closed at once without a
	// byte, as a forwarder does with nothing behind it. An address that neither accepts nor
	// refuses is neither. Default: "open".
	For string `json:"for,omitempty"`

	// The longest wait. After that the step has failed. Default and zero: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

const defaultWaitTimeout = 30 * time.Second

// CaddyModule returns the Caddy module information.
func (*Step) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.tcplock.hooks.wait", New: func() caddy.Module { return new(Step) }}
}

// Provision checks the step.
func (s *Step) Provision(caddy.Context) error { return s.check() }

func (s *Step) check() error {
	if strings.Contains(s.Address, "{") {
		if err := hook.CheckPlaceholders(s.Address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	} else if _, _, err := dial.Address(s.Address); err != nil {
		return err
	}
	if s.For != "" && s.For != dial.Open && s.For != dial.Closed {
		return fmt.Errorf("for: found %q, expected %s or %s", s.For, dial.Open, dial.Closed)
	}
	return hook.CheckTimeout(s.Timeout)
}

// Run implements Step.
func (s *Step) Run(ctx context.Context, m hook.Moment) error {
	address, err := m.Replacer().ReplaceOrErr(s.Address, false, true)
	if err != nil {
		return fmt.Errorf("wait: address: %w", err)
	}
	_, err = dial.Await(ctx, address, cmp.Or(s.For, dial.Open), cmp.Or(time.Duration(s.Timeout), defaultWaitTimeout))
	return err
}

// WriteDefaults implements hook.DefaultWriter.
func (s *Step) WriteDefaults() {
	s.For = cmp.Or(s.For, dial.Open)
	s.Timeout = cmp.Or(s.Timeout, caddy.Duration(defaultWaitTimeout))
}

// UnmarshalCaddyfile reads
//
//	wait <address> [open|closed] {
//	    timeout <duration>
//	}
func (s *Step) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.Errf("wait: found %s, expected an address, and open or closed", opts.Count(len(args), "argument"))
	}
	s.Address = args[0]
	if len(args) == 2 {
		s.For = args[1]
	}
	return opts.Table{"timeout": opts.One(&s.Timeout, opts.Duration)}.Parse(d, s.check, nil)
}

var _ hook.DefaultWriter = (*Step)(nil) // nothing else would notice if it were none
