package hook

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// Written returns the hook with the defaults of its steps written out, so that two hooks that mean
// the same are equal.
func (h Hook) Written() Hook {
	h.StepsRaw = slices.Clone(h.StepsRaw)
	for i, raw := range h.StepsRaw {
		h.StepsRaw[i] = stepWritten(raw)
	}
	return h
}

// DefaultWriter is a step that can write its defaults out. WriteDefaults sets each setting that is
// left out to its default, so that two hooks that mean the same are equal.
type DefaultWriter interface{ WriteDefaults() }

// stepWritten returns a step's JSON as its module writes it, with the defaults written out if the
// step is a DefaultWriter. JSON that the module cannot read stays unchanged: it is refused when it
// is loaded.
func stepWritten(raw json.RawMessage) json.RawMessage {
	const key = "hook"
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(raw, &fields) != nil || json.Unmarshal(fields[key], &name) != nil {
		return raw
	}
	info, err := caddy.GetModule(Namespace + "." + name)
	if err != nil {
		return raw
	}
	delete(fields, key)
	rest, err := json.Marshal(fields)
	step := info.New()
	if err != nil || caddy.StrictUnmarshalJSON(rest, step) != nil {
		return raw
	}
	if step, ok := step.(DefaultWriter); ok {
		step.WriteDefaults()
	}
	return caddyconfig.JSONModuleObject(step, key, name, nil)
}
