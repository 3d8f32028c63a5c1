package lock

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// written returns the settings in canonical form, with defaults and workers' addresses written
// out. So settings that mean the same compare equal.
func (s Settings) written() Settings {
	linger, drain := caddy.Duration(s.linger()), caddy.Duration(s.drain())
	s.Linger, s.Drain, s.HalfClosed = &linger, &drain, cmp.Or(s.HalfClosed, halfClosedKeep)
	s.Workers, _ = s.expand() // check has seen the error
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
	var names []string
	for name, value := range one {
		if !bytes.Equal(value, other[name]) {
			names = append(names, name)
		}
	}
	for name := range other {
		if one[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
