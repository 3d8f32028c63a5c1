package tcplock

import (
	"errors"
	"math"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// UnmarshalCaddyfile sets up the Handler from Caddyfile tokens. Syntax:
//
//	tcplock [<slots>] {
//		name         <name>
//		to           <address>
//		workers      <address...>
//		connect_timeout <duration>
//		proxy_protocol  v1|v2
//		worker_check [<timeout>]
//		service      <command> [<args...>] { ... }
//		priority     <n>
//		priority_age <duration>
//		max_per_client         <n>
//		max_waiting_per_client <n>
//		max_waiting  <n>
//		wait_timeout <duration>
//		hold_timeout <duration>
//		linger       <duration>
//		half_closed  keep|drop
//		settle       <duration>
//		drain        <duration>
//		on <moment> <step> [<args...>]
//		on <moment> {
//			every     <n>|<duration>
//			exclusive [<max wait>]
//			retry     <n> [<interval>]
//			optional
//			<step> [<args...>]
//		}
//		refuse {
//			<handler> [<args...>]
//		}
//	}
//
// Moments are activate, release, timeout, refuse and idle <duration>; steps are exec,
// wait, emit and whatever else is registered in the namespace layer4.tcplock.hooks.
// A step may have a block, on both forms of "on". The block of a service is that of
// [service.Service.UnmarshalCaddyfile]. The number of slots is 1 if neither it nor workers are
// given.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the handler's name
	start := *d
	timeoutHook := *d // where the last one stands
	table := opts.Table{
		"name":            opts.One(&h.Name, opts.Text),
		"priority":        opts.One(&h.Priority, opts.Number),
		"priority_age":    opts.One(&h.PriorityAge, opts.Duration),
		"to":              opts.One(&h.To, opts.Text),
		"connect_timeout": opts.Optional(&h.ConnectTimeout, opts.Duration),
		"proxy_protocol":  opts.One(&h.ProxyProtocol, opts.Text),
		"workers": {Max: math.MaxInt, Set: func(_ *caddyfile.Dispenser, args []string) error {
			if len(args) == 0 {
				return errors.New("found 0 arguments, expected one address or more")
			}
			h.Workers = args
			return nil
		}},
		"worker_check": {Max: 1, Set: func(_ *caddyfile.Dispenser, args []string) (err error) {
			h.WorkerCheck = caddy.Duration(lock.DefaultWorkerCheck)
			if len(args) > 0 {
				h.WorkerCheck, err = opts.Duration(args[0])
			}
			return err
		}},
		"service": {Own: func(d *caddyfile.Dispenser) error {
			h.Service = new(service.Service)
			return h.Service.UnmarshalCaddyfile(d)
		}},
		"max_per_client":         opts.One(&h.MaxPerClient, opts.Number),
		"max_waiting_per_client": opts.One(&h.MaxWaitingPerClient, opts.Number),
		"max_waiting":            opts.Optional(&h.MaxWaiting, opts.Number),
		"wait_timeout":           opts.One(&h.WaitTimeout, opts.Duration),
		"hold_timeout":           opts.One(&h.HoldTimeout, opts.Duration),
		"linger":                 opts.Optional(&h.Linger, opts.Duration),
		"half_closed":            opts.One(&h.HalfClosed, opts.Text),
		"settle":                 opts.One(&h.Settle, opts.Duration),
		"drain":                  opts.Optional(&h.Drain, opts.Duration),
		"on": {Repeat: true, Own: func(d *caddyfile.Dispenser) error {
			line := *d
			added := new(hook.Hook)
			if err := added.UnmarshalCaddyfile(d); err != nil {
				return err
			}
			if added.On == hook.Timeout {
				timeoutHook = line
			}
			h.Hooks = append(h.Hooks, added)
			return nil
		}},
		"refuse": {Own: h.unmarshalRefuse},
	}
	args := d.RemainingArgs()
	if len(args) > 1 {
		return d.Errf("tcplock: found %s, expected at most one, the number of slots", opts.Count(len(args), "argument"))
	}
	if len(args) == 1 {
		var err error
		if h.Slots, err = lock.ParseSlots(args[0]); err != nil {
			return d.Errf("tcplock: %w", err)
		}
	}
	if err := table.Parse(d, h.check, nil); err != nil {
		return err
	}
	if err := h.CheckMoments(); err != nil {
		return timeoutHook.WrapErr(err)
	}
	if err := h.CheckWorkers(); err != nil {
		return start.WrapErr(err)
	}
	return nil
}

// unmarshalRefuse reads a "refuse" with its block.
func (h *Handler) unmarshalRefuse(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("refuse: found %q, expected a block of handlers", d.Val())
	}
	start := *d
	if err := layer4.ParseCaddyfileNestedHandlers(d, &h.RefuseRaw); err != nil {
		return err
	}
	if len(h.RefuseRaw) == 0 {
		return start.Errf("refuse: found no handler, expected at least one in a block")
	}
	return nil
}
