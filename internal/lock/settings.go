package lock

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// Settings are the settings of a lock. Durations are strings such as "20s" or
// "1h30m", or integers in nanoseconds. No number and no duration may be negative.
type Settings struct {
	// How many connections may be at the service at once, from 1 to 1000000. Default: 1.
	Slots int `json:"slots,omitempty"`

	// The address of the service, to which tcplock itself connects: host:port or unix//path. Only global
	// placeholders are allowed. No handler may follow tcplock in its route then. Not with workers.
	// Default: none, the next handler (proxy) connects, or tcplock connects to the workers.
	To string `json:"to,omitempty"`

	// The longest time for one try to connect to the service, where tcplock itself connects (to, workers).
	// That time counts neither as time in line nor as time with a slot. Only if the try fails, it counts as
	// time in line. Zero is refused. Default: 5s.
	ConnectTimeout *caddy.Duration `json:"connect_timeout,omitempty"`

	// The version of the header of the PROXY protocol, "v1" or "v2". It tells the service the addresses of
	// the client, where tcplock itself connects. Default: none, no header.
	ProxyProtocol string `json:"proxy_protocol,omitempty"`

	// The addresses of the service's workers. Each worker takes one connection at a time, so
	// there is one slot for each address. The placeholder {l4.tcplock.worker} has the
	// address that a connection got, for the proxy to dial. An address is host:port,
	// host:port-port (one worker for each port) or unix//path, and is listed once. Only
	// global placeholders are allowed. Not with slots. Default: none, all slots lead to one
	// service.
	Workers []string `json:"workers,omitempty"`

	// How long the lock tries to connect to a worker before it lets a connection through to
	// it. The check takes the worker's only socket for up to 100ms, which not every device
	// can stand. It cannot detect a forwarder with nothing behind it. Needs workers. Default
	// and zero: no check; that a worker is down shows when the proxy fails to reach it. In
	// both cases the worker is left out for half a second, and twice as long each further
	// time (at most 30s). The client keeps its place in line.
	WorkerCheck caddy.Duration `json:"worker_check,omitempty"`

	// The service that the lock starts and restarts, with one process for each slot.
	// Default: none, the lock does not run the service.
	Service *service.Service `json:"service,omitempty"`

	// How many slots one client may hold at once. A client is one IPv4 address, or one IPv6
	// /64. Further connections of the client are passed over in line until one of those with
	// a slot has ended. Default and zero: no bound.
	MaxPerClient int `json:"max_per_client,omitempty"`

	// How many connections of one client may stand in line; more are refused. Default
	// and zero: no bound of its own; max_waiting holds.
	MaxWaitingPerClient int `json:"max_waiting_per_client,omitempty"`

	// How long a connection must wait to gain 1 priority point, at most 24h. It keeps
	// connections with a low priority from waiting for ever: after 10 times as long, a
	// connection with priority 0 goes before a new one with 10. Default and zero: a
	// connection gains no points.
	PriorityAge caddy.Duration `json:"priority_age,omitempty"`

	// How many connections may stand in line; more are refused. Zero: no connection waits,
	// and one that finds no free slot is refused; then not with wait_timeout. Default: as
	// many as the process has file descriptors for (see docs/running.md). That bound holds
	// whatever is set here.
	MaxWaiting *int `json:"max_waiting,omitempty"`

	// The longest time in line; after that the connection is refused. The time of tries to
	// reach a worker that fail counts, the time in hooks does not. Default and zero: no limit.
	WaitTimeout caddy.Duration `json:"wait_timeout,omitempty"`

	// The longest time with a slot, counted from the end of the activate hooks. Where tcplock itself connects,
	// it is counted from when the service has been reached.
	// After that the client is cut, the timeout hooks and the release hooks run, and the slot
	// is given back, even if the service has not closed the connection. Default and zero: no
	// limit.
	HoldTimeout caddy.Duration `json:"hold_timeout,omitempty"`

	// How long a silent client keeps the slot after the service has closed its side of the
	// connection. A client that is still sending is never cut by this. Zero: the connection
	// ends when the service closes its side. That is fastest, and right only if the service
	// does not read on after that (request and response). Default: 1s.
	Linger *caddy.Duration `json:"linger,omitempty"`

	// What happens to a waiter that has sent data and closed its sending side. "keep" serves
	// it (a print client sends its job and goes), "drop" ends it (a request/response client
	// that gave up). Not every system can detect this, see docs/running.md. Default: "keep".
	HalfClosed string `json:"half_closed,omitempty"`

	// The pause between a holder's end (after its hooks) and the next activation
	// of its slot. Default and zero: none.
	Settle caddy.Duration `json:"settle,omitempty"`

	// How long holders may take to finish when Caddy shuts down; after that they are cut.
	// Waiters are refused at once. Zero: holders are cut at once. Default: 4s, because
	// systemd's unit for Caddy kills after 5s, and docker stop after 10s.
	Drain *caddy.Duration `json:"drain,omitempty"`

	// The hooks: what runs at the lock's moments. Default: none.
	Hooks []*hook.Hook `json:"hooks,omitempty"`
}

// Names and bounds of the settings.
const (
	MaxSlots = 1_000_000
	maxAge   = 24 * time.Hour

	halfClosedKeep = "keep"
	halfClosedDrop = "drop"

	DefaultLinger      = time.Second
	DefaultDrain       = 4 * time.Second
	DefaultWorkerCheck = time.Second

	defaultConnectTimeout = 5 * time.Second
)

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// CheckName refuses a name that no lock may have. "" is the default name.
func CheckName(name string) error {
	// Dots alone would be no path of the admin API.
	if name != "" && (!validName.MatchString(name) || strings.Trim(name, ".") == "") {
		return fmt.Errorf("name: found %q, expected 1 to 64 letters, digits or any of . _ -, and not just dots", name)
	}
	return nil
}

// ParseSlots parses a number of slots. It refuses 0, which would otherwise mean the default: a config
// that says 0 means something else.
func ParseSlots(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxSlots {
		return 0, fmt.Errorf("found %q slots, expected a whole number from 1 to %d", s, MaxSlots)
	}
	return n, nil
}

func (s *Settings) Check() error {
	workers, err := s.expand()
	if _, toErr := s.resolveTo(); err == nil {
		err = toErr
	}
	switch {
	case s.Slots < 0 || s.Slots > MaxSlots:
		return fmt.Errorf("slots: found %d, expected a number from 1 to %d", s.Slots, MaxSlots)
	case s.MaxWaiting != nil && *s.MaxWaiting == 0 && s.WaitTimeout > 0:
		return fmt.Errorf("wait_timeout: found %s with max_waiting 0, expected only one of them: no connection waits then", time.Duration(s.WaitTimeout))
	case s.MaxWaiting != nil && *s.MaxWaiting < 0:
		return fmt.Errorf("max_waiting: found %d, expected 0 or more", *s.MaxWaiting)
	case s.MaxPerClient < 0:
		return fmt.Errorf("max_per_client: found %d, expected 0 or more", s.MaxPerClient)
	case s.MaxWaitingPerClient < 0:
		return fmt.Errorf("max_waiting_per_client: found %d, expected 0 or more", s.MaxWaitingPerClient)
	case err != nil:
		return err
	case s.To != "" && len(s.Workers) > 0:
		return errors.New("to: found it beside workers, expected only one of them: workers are addresses of the service too")
	case s.To != "" && s.WorkerCheck > 0:
		return errors.New("worker_check: found it beside to, expected only one of them: tcplock itself connects to the service, and that is the check")
	case len(workers) > 0 && s.Slots > 0:
		return fmt.Errorf("workers: found %d beside slots %d, expected only one of them: each worker is a slot", len(workers), s.Slots)
	case len(workers) > MaxSlots:
		return fmt.Errorf("workers: found %d, expected at most %d", len(workers), MaxSlots)
	case time.Duration(s.PriorityAge) > maxAge:
		return fmt.Errorf("priority_age: found %s, expected at most %s", time.Duration(s.PriorityAge), maxAge)
	case s.ProxyProtocol != "" && s.proxyVersion() == 0:
		return fmt.Errorf("proxy_protocol: found %q, expected v1 or v2", s.ProxyProtocol)
	case s.HalfClosed != "" && s.HalfClosed != halfClosedKeep && s.HalfClosed != halfClosedDrop:
		return fmt.Errorf("half_closed: found %q, expected %s or %s", s.HalfClosed, halfClosedKeep, halfClosedDrop)
	}
	if s.Service != nil {
		if err := s.Service.Check(); err != nil {
			return fmt.Errorf("service: %w", err)
		}
	}
	durations := map[string]caddy.Duration{
		"connect_timeout": valueOr(s.ConnectTimeout, 1),
		"worker_check":    s.WorkerCheck,
		"priority_age":    s.PriorityAge,
		"wait_timeout":    s.WaitTimeout,
		"hold_timeout":    s.HoldTimeout,
		"linger":          valueOr(s.Linger, 0),
		"settle":          s.Settle,
		"drain":           valueOr(s.Drain, 0),
	}
	for _, name := range slices.Sorted(maps.Keys(durations)) {
		if d := durations[name]; d < 0 {
			return fmt.Errorf("%s: found %s, expected a duration of 0 or more", name, time.Duration(d))
		}
	}
	if s.ConnectTimeout != nil && *s.ConnectTimeout == 0 {
		return errors.New("connect_timeout: found 0, expected a duration of more than 0")
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

// CheckWorkers refuses options that are of no use without workers. It is not part of
// Check, because the options of a block come in any order.
func (s *Settings) CheckWorkers() error {
	if s.WorkerCheck > 0 && len(s.Workers) == 0 {
		return errors.New("worker_check: found no workers, expected some")
	}
	if s.To == "" && len(s.Workers) == 0 {
		const neither = "%s: found neither to nor workers, expected one of them: without an address tcplock does not connect itself"
		switch {
		case s.ConnectTimeout != nil:
			return fmt.Errorf(neither, "connect_timeout")
		case s.ProxyProtocol != "":
			return fmt.Errorf(neither, "proxy_protocol")
		}
	}
	if s.To != "" && s.Service != nil && s.Slots > 1 {
		return fmt.Errorf("to: found it with a service in %d slots, expected one slot: all its processes would listen on one address", s.Slots)
	}
	if s.Service != nil {
		return s.Service.CheckSlots(s.addresses())
	}
	return nil
}

// CheckMoments refuses hooks whose moment never comes. It is not part of Check, because
// the options of a block come in any order.
func (s *Settings) CheckMoments() error {
	if s.HoldTimeout == 0 && slices.ContainsFunc(s.Hooks, func(h *hook.Hook) bool { return h.On == hook.Timeout }) {
		return errors.New("on timeout: found no hold_timeout, expected one: without it that moment never comes")
	}
	return nil
}

func (s *Settings) Empty() bool { return reflect.ValueOf(*s).IsZero() }

func (s *Settings) linger() time.Duration {
	return time.Duration(valueOr(s.Linger, caddy.Duration(DefaultLinger)))
}

func (s *Settings) drain() time.Duration {
	return time.Duration(valueOr(s.Drain, caddy.Duration(DefaultDrain)))
}

func (s *Settings) connectTimeout() time.Duration {
	return time.Duration(valueOr(s.ConnectTimeout, caddy.Duration(defaultConnectTimeout)))
}

// proxyVersion is the version of the PROXY protocol, 0: none.
func (s *Settings) proxyVersion() byte {
	switch s.ProxyProtocol {
	case "v1":
		return 1
	case "v2":
		return 2
	}
	return 0
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// written returns the settings in canonical form, with defaults and workers' addresses written
// out. So settings that mean the same compare equal.
func (s Settings) written() Settings {
	linger, drain := caddy.Duration(s.linger()), caddy.Duration(s.drain())
	s.Linger, s.Drain, s.HalfClosed = &linger, &drain, cmp.Or(s.HalfClosed, halfClosedKeep)
	s.Workers, _ = s.expand() // check has seen the error
	s.To, s.ConnectTimeout = s.to(), new(caddy.Duration(s.connectTimeout()))
	if len(s.Workers) == 0 {
		s.Slots = s.slots()
	}
	if s.Service != nil {
		service := s.Service.Written()
		s.Service = &service
	}
	s.Hooks = slices.Clone(s.Hooks)
	for i, hook := range s.Hooks {
		written := hook.Written()
		s.Hooks[i] = &written
	}
	return s
}

// differences names the settings in which two differ.
func differences(a, b []byte) string {
	var one, other map[string]json.RawMessage
	if json.Unmarshal(a, &one) != nil || json.Unmarshal(b, &other) != nil {
		return "settings"
	}
	all := maps.Clone(one)
	maps.Copy(all, other)
	same := func(name string) bool { return bytes.Equal(one[name], other[name]) }
	return strings.Join(slices.DeleteFunc(slices.Sorted(maps.Keys(all)), same), ", ")
}
