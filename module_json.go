package tcplock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
)

// JSON follows the rules of the Caddyfile: a value that the Caddyfile refuses is refused here too,
// and an empty list is the same as none.

// UnmarshalJSON implements json.Unmarshaler. It refuses null, which Go would read as a missing
// value, and slots of 0.
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
			return fmt.Errorf("slots: found 0, expected a number from 1 to %d", lock.MaxSlots)
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
