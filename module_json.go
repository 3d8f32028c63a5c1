package tcplock

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// JSON of a config is judged as the Caddyfile is: what nobody could write there is refused
// here, and what means nothing there means nothing here.

// UnmarshalJSON implements json.Unmarshaler. It refuses null, which Go would take for a value
// that is not there, and slots of 0.
func (h *Handler) UnmarshalJSON(b []byte) error {
	if err := refuseNull("", b); err != nil {
		return err
	}
	type plain Handler // which has no UnmarshalJSON
	read := struct {
		*plain
		Slots *int `json:"slots"`
	}{plain: (*plain)(h)}
	if err := caddy.StrictUnmarshalJSON(b, &read); err != nil {
		return err
	}
	if read.Slots != nil {
		if h.Slots = *read.Slots; h.Slots == 0 {
			return fmt.Errorf("slots: found 0, expected a number from 1 to %d", maxSlots)
		}
	}
	if len(h.Hooks) == 0 {
		h.Hooks = nil
	}
	if len(h.Workers) == 0 {
		h.Workers = nil
	}
	return nil
}

// refuseNull refuses null as a value of an object or of the service in it. (What a step or a
// refuse handler makes of null is its own business.)
func refuseNull(prefix string, object []byte) error {
	var values map[string]json.RawMessage
	if json.Unmarshal(object, &values) != nil {
		return nil // an error that is told better when the object is read
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if bytes.Equal(bytes.TrimSpace(values[name]), []byte("null")) {
			return fmt.Errorf("%s%s: found null, expected a value, or nothing for the default", prefix, name)
		}
		if name == "service" {
			if err := refuseNull("service: ", values[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// written returns the settings in one form of all those that mean the same: with the defaults
// and the workers' addresses written out.
func (s Settings) written() Settings {
	linger, drain := caddy.Duration(s.linger()), caddy.Duration(s.drain())
	s.Linger, s.Drain, s.HalfClosed = &linger, &drain, cmp.Or(s.HalfClosed, halfClosedKeep)
	s.Workers, _ = s.expand() // check has seen the error
	if len(s.Workers) == 0 {
		s.Slots = s.slots()
	}
	if s.Service != nil {
		service := s.Service.written()
		s.Service = &service
	}
	s.Hooks = slices.Clone(s.Hooks)
	for i, hook := range s.Hooks {
		written := hook.written()
		s.Hooks[i] = &written
	}
	return s
}

func (s Service) written() Service {
	s.Start = cmp.Or(s.Start, startEager)
	s.ReadyTimeout = cmp.Or(s.ReadyTimeout, caddy.Duration(defaultReadyTimeout))
	s.StopTimeout = cmp.Or(s.StopTimeout, caddy.Duration(defaultStopTimeout))
	return s
}

func (h Hook) written() Hook {
	h.StepsRaw = slices.Clone(h.StepsRaw)
	for i, raw := range h.StepsRaw {
		h.StepsRaw[i] = stepWritten(raw)
	}
	return h
}

// stepWritten is a step's JSON as its module writes it, with the defaults of those that say
// theirs. JSON that the module cannot read stays as it is: it is refused when it is loaded.
func stepWritten(raw json.RawMessage) json.RawMessage {
	const key = "hook"
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(raw, &fields) != nil || json.Unmarshal(fields[key], &name) != nil {
		return raw
	}
	info, err := caddy.GetModule("layer4.tcplock.hooks." + name)
	if err != nil {
		return raw
	}
	delete(fields, key)
	rest, err := json.Marshal(fields)
	step := info.New()
	if err != nil || caddy.StrictUnmarshalJSON(rest, step) != nil {
		return raw
	}
	if step, ok := step.(interface{ writeDefaults() }); ok {
		step.writeDefaults()
	}
	return caddyconfig.JSONModuleObject(step, key, name, nil)
}

func (s *ExecStep) writeDefaults() {
	if !s.Detach {
		s.Timeout = cmp.Or(s.Timeout, caddy.Duration(defaultExecTimeout))
	}
}

func (s *WaitStep) writeDefaults() {
	s.For = cmp.Or(s.For, waitOpen)
	s.Timeout = cmp.Or(s.Timeout, caddy.Duration(defaultWaitTimeout))
}

func (s *EmitStep) writeDefaults() {
	s.Timeout = cmp.Or(s.Timeout, caddy.Duration(defaultEmitTimeout))
}
