package tcplock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
)

func init() {
	caddy.RegisterModule(new(WaitStep))
}

// WaitStep waits until a service is at an address, or until none is any more, by
// trying: at once, and then in pauses that grow from 20ms to 250ms. A try is a connection
// that listens for 50ms, closes its side, and closes when the service has closed too, or
// after 100ms.
type WaitStep struct {
	// The address: host:port or unix//path, with Caddy's global placeholders and
	// {l4.tcplock.*}. Required.
	Address string `json:"address"`

	// What to wait for: "open", a connection succeeds and is not closed at once, or
	// "closed", a connection is refused (or there is no such socket file), or closed at
	// once without a word, as a forwarder does with nothing behind it. An address that
	// neither accepts nor refuses is neither. Default: "open".
	For string `json:"for,omitempty"`

	// The longest wait; when it is over the step has failed. Default and zero: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

const (
	waitOpen   = "open"
	waitClosed = "closed"

	defaultWaitTimeout = 30 * time.Second

	minPollPause = 20 * time.Millisecond
	maxPollPause = 250 * time.Millisecond
)

// CaddyModule returns the Caddy module information.
func (*WaitStep) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.tcplock.hooks.wait",
		New: func() caddy.Module { return new(WaitStep) },
	}
}

// Provision checks the step.
func (s *WaitStep) Provision(caddy.Context) error {
	return s.check()
}

func (s *WaitStep) check() error {
	if strings.Contains(s.Address, "{") {
		if err := checkPlaceholders(s.Address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	} else if _, _, err := dialAddress(s.Address); err != nil {
		return err
	}
	switch s.For {
	case "", waitOpen, waitClosed:
	default:
		return fmt.Errorf("for: found %q, expected %s or %s", s.For, waitOpen, waitClosed)
	}
	return checkTimeout(s.Timeout)
}

// dialAddress returns what net.Dial wants for address.
func dialAddress(address string) (network, host string, err error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return "", "", fmt.Errorf("address: found %q, expected host:port or unix//path: %w", address, err)
	}
	ok := false
	switch a.Network {
	case "tcp", "tcp4", "tcp6":
		ok = a.PortRangeSize() == 1 && a.StartPort > 0
	case "unix":
		// What stands behind a | are permissions, which are for listeners.
		ok = a.Host != "" && !strings.Contains(a.Host, "|")
	}
	if !ok {
		return "", "", fmt.Errorf("address: found %q, expected host:port or unix//path", address)
	}
	return a.Network, a.JoinHostPort(0), nil
}

// Run implements Step.
func (s *WaitStep) Run(ctx context.Context, m Moment) error {
	address, err := m.Replacer().ReplaceOrErr(s.Address, false, true)
	if err != nil {
		return fmt.Errorf("wait: address: %w", err)
	}
	_, err = s.poll(ctx, address)
	return err
}

// poll is Run with the address as it is. It reports as well whether a try was accepted,
// whatever came of it.
func (s *WaitStep) poll(ctx context.Context, address string) (met bool, err error) {
	network, host, err := dialAddress(address)
	if err != nil {
		return false, fmt.Errorf("wait: %w", err)
	}
	what := cmp.Or(s.For, waitOpen)
	timeout := cmp.Or(time.Duration(s.Timeout), defaultWaitTimeout)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	var last error
	for pause := minPollPause; ; pause = min(2*pause, maxPollPause) {
		err := probe(bounded, network, host, listenFor)
		met = met || err == nil || errors.Is(err, errNothingBehind) || errors.Is(err, errCutShort)
		if what == waitOpen && err == nil || what == waitClosed && absent(network, err) {
			return met, nil
		}
		if err == nil {
			err = errors.New("it accepts connections")
		}
		// The last try may have been cut short, which tells nothing.
		if last == nil || bounded.Err() == nil {
			last = err
		}
		if !clock.Sleep(bounded, pause) {
			break
		}
	}
	if ctx.Err() != nil {
		return met, fmt.Errorf("wait %s: stopped: %w", address, context.Cause(ctx))
	}
	return met, fmt.Errorf("wait %s: not %s after %s: %w", address, what, timeout, last)
}

// UnmarshalCaddyfile reads
//
//	wait <address> [open|closed] {
//	    timeout <duration>
//	}
func (s *WaitStep) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.Errf("wait: found %s, expected an address, and open or closed", opts.Count(len(args), "argument"))
	}
	s.Address = args[0]
	if len(args) == 2 {
		s.For = args[1]
	}
	if err := s.check(); err != nil {
		return d.WrapErr(err)
	}
	return opts.Table{"timeout": opts.One(&s.Timeout, opts.Duration)}.Parse(d, s.check, nil)
}

// Interface guards
var (
	_ Step                  = (*WaitStep)(nil)
	_ caddy.Provisioner     = (*WaitStep)(nil)
	_ caddyfile.Unmarshaler = (*WaitStep)(nil)
)
