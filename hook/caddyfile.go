package hook

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
)

// UnmarshalCaddyfile reads a hook with its block; d is on the word "on".
//
//	on <moment> <step> [<args...>]
//	on <moment> {
//		every     <n>|<duration>
//		exclusive [<max wait>]
//		retry     <n> [<interval>]
//		optional
//		<step> [<args...>]
//	}
func (h *Hook) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	start := *d // reports what is wrong with the hook as a whole
	if !d.NextArg() {
		return d.Errf("on: found no moment, expected one of %s", strings.Join(Moments, ", "))
	}
	h.On = d.Val()
	if h.On == Idle {
		if !d.NextArg() {
			return d.Errf("on idle: found no duration, expected one such as 10m")
		}
		var err error
		if h.IdleFor, err = opts.Duration(d.Val()); err != nil {
			return d.Errf("on idle: %w", err)
		}
	}
	if err := h.checkConditions(); err != nil {
		return d.WrapErr(err)
	}
	if d.NextArg() {
		return h.unmarshalStep(d)
	}
	if err := h.conditions().Parse(d, h.checkConditions, h.unmarshalStep); err != nil {
		return err
	}
	if err := h.Check(); err != nil {
		return start.WrapErr(err)
	}
	return nil
}

// conditions are the options in a hook's block.
func (h *Hook) conditions() opts.Table {
	return opts.Table{
		"every": opts.One(&h.Every, ParseEvery),
		"exclusive": {Max: 1, Set: func(_ *caddyfile.Dispenser, args []string) (err error) {
			h.Exclusive = true
			if len(args) > 0 {
				h.ExclusiveWait, err = opts.Duration(args[0])
			}
			return err
		}},
		"retry": {Min: 1, Max: 2, Set: func(_ *caddyfile.Dispenser, args []string) (err error) {
			if h.Retry, err = opts.Number(args[0]); err == nil && len(args) > 1 {
				h.RetryInterval, err = opts.Duration(args[1])
			}
			return err
		}},
		"optional": opts.Flag(&h.Optional),
	}
}

// unmarshalStep reads a step with its block; d is on the step's name.
func (h *Hook) unmarshalStep(d *caddyfile.Dispenser) error {
	name := d.Val()
	if _, err := caddy.GetModule(Namespace + "." + name); err != nil {
		var names []string
		for _, mod := range caddy.GetModules(Namespace) {
			names = append(names, mod.ID.Name())
		}
		return d.Errf("on %s: found %q, expected a step (%s) or, in a block, a condition (%s)",
			h.On, name, strings.Join(names, ", "), h.conditions())
	}
	start := *d
	mod, err := caddyfile.UnmarshalModule(d, Namespace+"."+name)
	if err != nil {
		return err
	}
	if _, ok := mod.(Step); !ok {
		return start.Errf("on %s: found %s, which is a %T, expected a step", h.On, name, mod)
	}
	var warnings []caddyconfig.Warning
	h.StepsRaw = append(h.StepsRaw, caddyconfig.JSONModuleObject(mod, "hook", name, &warnings))
	if len(warnings) > 0 {
		return start.Errf("on %s: %s: %v", h.On, name, warnings[0])
	}
	return nil
}
