package lock

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
)

// The addresses of the service, as the settings name them.

// pooled reports whether the lock has a worker behind each slot.
func (s *Settings) pooled() bool { return len(s.Workers) > 0 || s.Service != nil }

// shared returns the address behind all slots, "" if there is none. With a service, the only slot has a
// worker for it.
func (s *Settings) shared() string {
	if s.pooled() {
		return ""
	}
	return s.to()
}

// addresses returns the workers' addresses, one for each slot. They are empty strings if the
// slots have no workers with addresses.
func (s *Settings) addresses() []string {
	switch {
	case len(s.Workers) > 0:
		addresses, _ := s.expand() // check has seen the error
		return addresses
	case s.Service != nil && s.To != "":
		return []string{s.to()}
	}
	return make([]string, max(1, s.Slots))
}

func (s *Settings) slots() int { return len(s.addresses()) }

// named returns the addresses of the service, without placeholders. A range of ports is one of them.
func (s *Settings) named() []string {
	if s.To != "" {
		return []string{s.to()}
	}
	workers, _ := s.resolve() // check has seen the error
	return workers
}

func (s *Settings) to() string {
	to, _ := s.resolveTo() // check has seen the error
	return to
}

// resolveTo returns the address of to with its placeholders replaced.
func (s *Settings) resolveTo() (to string, err error) {
	if s.To == "" {
		return "", nil
	}
	if to, err = caddy.NewReplacer().ReplaceOrErr(s.To, true, true); err != nil {
		return "", fmt.Errorf("to: found %q: %w", s.To, err)
	}
	if _, _, err := dial.Address(to); err != nil {
		if strings.Contains(to, "://") || strings.HasPrefix(to, "tls/") {
			return "", fmt.Errorf("to: found %q, expected host:port or unix//path; for TLS to the service leave this option out, and have proxy connect", s.To)
		}
		return "", fmt.Errorf("to: found %q, expected host:port or unix//path", s.To)
	}
	return to, nil
}

// resolve returns the workers with their placeholders replaced.
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
		if err != nil || a.PortRangeSize() > MaxSlots {
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
