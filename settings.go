package tcplock

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// Settings are the settings of a lock. Durations are strings such as "20s" or
// "1h30m" (or integers: nanoseconds); none may be negative.
type Settings struct {
	// How many connections may be at the service at once, from 1 to 1000000. Default: 1.
	Slots int `json:"slots,omitempty"`

	// The addresses of the service's workers, each of which takes one connection at a
	// time: there is one slot for each, and {l4.tcplock.worker} says which a connection
	// got, for the proxy to dial. host:port or unix//path; a port range stands for as
	// many workers. Global placeholders only. Not with slots. Default: none.
	Workers []string `json:"workers,omitempty"`

	// Try to connect to the worker, for no longer than this, before a connection is let
	// through to it. It takes the worker's only socket for up to 100ms, which not every
	// device can stand, and it cannot tell a forwarder with nothing behind it. Default and zero: a worker that is down shows when the proxy
	// fails to reach it. Either way it is left out for half a second, and twice as
	// long each further time (at most 30s), and the client keeps its place in line.
	WorkerCheck caddy.Duration `json:"worker_check,omitempty"`

	// The process behind each slot, to be started and restarted by the lock. Default:
	// none, the lock does not run the service.
	Service *service.Service `json:"service,omitempty"`

	// How many slots one client, which is one IP address (of IPv6 a /64), may hold at
	// once. Those of its connections that would have more are passed over until one of
	// the others has ended. Default and zero: as many as there are.
	MaxPerClient int `json:"max_per_client,omitempty"`

	// How many connections of one client may stand in line; more are refused. Default
	// and zero: as many as may wait at all.
	MaxWaitingPerClient int `json:"max_waiting_per_client,omitempty"`

	// The time in line that makes up for 1 of priority, so that those with a low one do
	// not wait for ever: after 10 times as long, priority 0 goes before a newcomer
	// with 10. Default and zero: no time does.
	PriorityAge caddy.Duration `json:"priority_age,omitempty"`

	// How many connections may stand in line; more are refused. Zero: nobody
	// waits, whoever finds no free slot is refused. Default: as many as the
	// process has file descriptors for (see docs/handler.md), a bound that holds
	// for every lock, whatever is set here.
	MaxWaiting *int `json:"max_waiting,omitempty"`

	// The longest time in line; who has waited that long is refused. Tries to reach a
	// worker in vain are part of it, hooks are not. Default and zero: none.
	WaitTimeout caddy.Duration `json:"wait_timeout,omitempty"`

	// The longest time with a slot, counted from the end of the activate hooks.
	// When it is over the client is cut, the timeout hooks run, and the slot is
	// handed on even if the service still does not let go. Default and zero: none.
	HoldTimeout caddy.Duration `json:"hold_timeout,omitempty"`

	// How long a client may stay silent after the service has closed its side of
	// the connection before the slot is handed on without it. A client that is
	// still sending is never cut by this. Zero: the connection ends the moment the
	// service closes its side, which is fastest, and right only where the service
	// does not read on after that (request and response). Default: 1s.
	Linger *caddy.Duration `json:"linger,omitempty"`

	// What to make of a client that has sent data and closed its sending side
	// before it was let through: "keep" serves it (a print client sends its job
	// and goes), "drop" takes it for gone (a request/response client that gave
	// up). Default: "keep". Not every system can tell, see docs/handler.md.
	HalfClosed string `json:"half_closed,omitempty"`

	// The pause between a holder's end (after its hooks) and the next activation
	// of its slot. Default and zero: none.
	Settle caddy.Duration `json:"settle,omitempty"`

	// How long holders may finish when Caddy shuts down, before they are cut; the
	// line is refused at once. Zero: they are cut at once. Default: 4s, because systemd's
	// unit for Caddy kills after 5s, and docker stop after 10s.
	Drain *caddy.Duration `json:"drain,omitempty"`

	// What to do at the lock's moments.
	Hooks []*hook.Hook `json:"hooks,omitempty"`
}

// Names and bounds of the settings.
const (
	maxSlots    = 1_000_000
	maxPriority = 1000
	maxAge      = 24 * time.Hour

	halfClosedKeep = "keep"
	halfClosedDrop = "drop"

	defaultLinger      = time.Second
	defaultDrain       = 4 * time.Second
	defaultWorkerCheck = time.Second
)

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (s *Settings) check() error {
	if s.Slots < 0 || s.Slots > maxSlots {
		return fmt.Errorf("slots: found %d, expected a number from 1 to %d", s.Slots, maxSlots)
	}
	if s.MaxWaiting != nil && *s.MaxWaiting < 0 {
		return fmt.Errorf("max_waiting: found %d, expected 0 or more", *s.MaxWaiting)
	}
	if s.MaxWaiting != nil && *s.MaxWaiting == 0 && s.WaitTimeout > 0 {
		return fmt.Errorf("wait_timeout: found %s with max_waiting 0, expected only one of them: nobody waits", time.Duration(s.WaitTimeout))
	}
	if err := s.checkPool(); err != nil {
		return err
	}
	for _, d := range []struct {
		name  string
		value *caddy.Duration
	}{
		{"worker_check", &s.WorkerCheck},
		{"priority_age", &s.PriorityAge},
		{"wait_timeout", &s.WaitTimeout},
		{"hold_timeout", &s.HoldTimeout},
		{"linger", s.Linger},
		{"settle", &s.Settle},
		{"drain", s.Drain},
	} {
		if d.value != nil && *d.value < 0 {
			return fmt.Errorf("%s: found %s, expected a duration of 0 or more", d.name, time.Duration(*d.value))
		}
	}
	switch s.HalfClosed {
	case "", halfClosedKeep, halfClosedDrop:
	default:
		return fmt.Errorf("half_closed: found %q, expected %s or %s", s.HalfClosed, halfClosedKeep, halfClosedDrop)
	}
	for i, hook := range s.Hooks {
		if hook == nil {
			return fmt.Errorf("hook %d: found null, expected a hook", i+1)
		}
		if err := hook.Check(); err != nil {
			return fmt.Errorf("hook %d: %w", i+1, err)
		}
	}
	return nil
}

// checkWorkers refuses options that are of no use without workers. It is not part of
// check, because the options of a block come in any order.
func (s *Settings) checkWorkers() error {
	if s.WorkerCheck > 0 && len(s.Workers) == 0 {
		return errors.New("worker_check: found no workers, expected some")
	}
	if s.Service != nil {
		return s.Service.CheckSlots(s.addresses())
	}
	return nil
}

func (s *Settings) checkPool() error {
	addresses, err := s.expand()
	switch {
	case err != nil:
		return err
	case len(addresses) > 0 && s.Slots > 0:
		return fmt.Errorf("workers: found %d beside slots %d, expected only one of them: each worker is a slot", len(addresses), s.Slots)
	case len(addresses) > maxSlots:
		return fmt.Errorf("workers: found %d, expected at most %d", len(addresses), maxSlots)
	}
	if s.Service != nil {
		if err := s.Service.Check(); err != nil {
			return fmt.Errorf("service: %w", err)
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"max_per_client", s.MaxPerClient},
		{"max_waiting_per_client", s.MaxWaitingPerClient},
	} {
		if n.value < 0 {
			return fmt.Errorf("%s: found %d, expected 0 or more", n.name, n.value)
		}
	}
	if time.Duration(s.PriorityAge) > maxAge {
		return fmt.Errorf("priority_age: found %s, expected at most %s", time.Duration(s.PriorityAge), maxAge)
	}
	return nil
}

// checkMoments refuses hooks whose moment never comes. It is not part of check, because
// the options of a block come in any order.
func (s *Settings) checkMoments() error {
	onTimeoutHook := func(h *hook.Hook) bool { return h.On == hook.Timeout }
	if s.HoldTimeout == 0 && slices.ContainsFunc(s.Hooks, onTimeoutHook) {
		return errors.New("on timeout: found no hold_timeout, expected one: without it that moment never comes")
	}
	return nil
}

// pooled reports whether the lock knows what stands behind its slots.
func (s *Settings) pooled() bool { return len(s.Workers) > 0 || s.Service != nil }

// addresses are those of the workers, one for each slot: empty ones if only processes
// stand behind the slots.
func (s *Settings) addresses() []string {
	if len(s.Workers) == 0 {
		return make([]string, max(1, s.Slots))
	}
	addresses, _ := s.expand() // check has seen the error
	return addresses
}

func (s *Settings) slots() int { return len(s.addresses()) }

// wanted is what the settings want to stand behind the slots.
func (s *Settings) wanted() pool.Wanted {
	return pool.Wanted{Addresses: s.addresses(), Pooled: s.pooled(), Service: s.Service}
}

// resolve returns the workers with what their placeholders stand for now.
func (s *Settings) resolve() (workers []string, err error) {
	for _, found := range s.Workers {
		worker, err := caddy.NewReplacer().ReplaceOrErr(found, true, true)
		if err != nil {
			return nil, fmt.Errorf("workers: found %q: %w", found, err)
		}
		workers = append(workers, worker)
	}
	return workers, nil
}

// expand returns the workers' addresses with port ranges written out.
func (s *Settings) expand() (addresses []string, err error) {
	workers, err := s.resolve()
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for i, found := range s.Workers {
		a, err := caddy.ParseNetworkAddress(workers[i])
		if err != nil || a.PortRangeSize() > maxSlots {
			return nil, fmt.Errorf("workers: found %q, expected host:port, host:port-port or unix//path", found)
		}
		for _, one := range a.Expand() {
			address := one.JoinHostPort(0)
			if one.IsUnixNetwork() {
				address = "unix/" + address
			}
			if _, _, err := dial.Address(address); err != nil || one.Network != "tcp" && one.Network != "unix" {
				return nil, fmt.Errorf("workers: found %q, expected host:port, host:port-port or unix//path", found)
			}
			if seen[address] {
				return nil, fmt.Errorf("workers: found %s a second time, expected each once: it would get two connections", address)
			}
			seen[address] = true
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

func (s *Settings) empty() bool { return reflect.ValueOf(*s).IsZero() }

func (s *Settings) linger() time.Duration {
	if s.Linger == nil {
		return defaultLinger
	}
	return time.Duration(*s.Linger)
}

func (s *Settings) drain() time.Duration {
	if s.Drain == nil {
		return defaultDrain
	}
	return time.Duration(*s.Drain)
}
