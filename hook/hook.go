// Package hook defines the hooks of a lock: a moment, the conditions under which a hook runs then,
// and its steps. A plugin that adds a step implements Step.
package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
)

// The moments at which hooks run.
const (
	Activate = "activate" // a slot is granted, and nothing has been sent to the service yet
	Release  = "release"  // the holder is gone, and its slot is not granted again yet
	Timeout  = "timeout"  // hold_timeout is over: the client is cut, and the slot is not granted again yet
	Refuse   = "refuse"   // a connection was refused
	Idle     = "idle"     // no connection has held a slot or waited for idle_for
)

// Moments is the list of all moments.
var Moments = []string{Activate, Release, Timeout, Refuse, Idle}

// Hook is a moment, conditions and steps. The hooks of one moment run one after the other, in the
// order of the config. Those of different slots run at the same time.
//
// If an activate hook fails, the connection for which it ran is refused, unless the hook is
// optional, and the hook is due again for the next connection. At any other moment a failure is
// logged only.
type Hook struct {
	// The moment: activate, release, timeout, refuse or idle. Required.
	On string `json:"on"`

	// With "idle" only, and required there: the hook runs when no connection has held a slot or
	// waited in line for this time. It runs once in each such pause. A connection that comes while
	// it runs waits for its end.
	IdleFor caddy.Duration `json:"idle_for,omitempty"`

	// Run only now and then. A number n: the first time, and then whenever n moments have been
	// counted since the last run. At activate and release, only connections that reached the
	// service count, and not those that ended by themselves without a byte in either direction. A
	// duration string: the first time, and then when the last run is at least that long ago. More
	// than zero. Default: every time. The lock keeps the count across reloads.
	Every Every `json:"every,omitzero"`

	// First let all other holders finish, and grant no slot until the hook is done. Not with
	// refuse (which has no slot) or idle (which is exclusive anyway). Default: false.
	Exclusive bool `json:"exclusive,omitempty"`

	// The longest wait for the other holders. After that the hook has failed. Default and zero: no
	// limit.
	ExclusiveWait caddy.Duration `json:"exclusive_wait,omitempty"`

	// How often to try again when a step has failed. Each new try starts with the failed step.
	// Default and zero: not at all.
	Retry int `json:"retry,omitempty"`

	// The pause before each new try. Default and zero: none.
	RetryInterval caddy.Duration `json:"retry_interval,omitempty"`

	// With activate only: if the hook fails, log it and let the connection go on. (At other
	// moments a failure never stops anything.) Default: false.
	Optional bool `json:"optional,omitempty"`

	// The steps, in order. At least one.
	StepsRaw []json.RawMessage `json:"steps,omitempty" caddy:"namespace=layer4.tcplock.hooks inline_key=hook"`

	key   string // the hook's JSON with the defaults written out: its count is kept under this key
	steps []Step
}

// Namespace is the module namespace of steps.
const Namespace = "layer4.tcplock.hooks"

// Step is one action of a hook: a module in the namespace layer4.tcplock.hooks. Run must return
// soon after ctx is done, and must limit its own time: a step that never returns keeps a slot
// forever. A panic counts as an error. A reload does not wait for steps: Run may still be at work
// after the step's Cleanup, or be called once more.
type Step interface {
	Run(ctx context.Context, m Moment) error
}

// Moment says when a hook runs, and for which connection.
type Moment struct {
	On         string        // the moment: activate, release, timeout, refuse or idle
	Lock       string        // the lock's name
	Slot       int           // the slot's index, from 1; 0 if there never was one (refuse)
	Worker     string        // the slot's worker, empty if it has none
	Connection uint64        // its id, which counts the connections to the lock; 0 if there is none
	Client     string        // the client's address; empty at idle
	Waited     time.Duration // how long the connection waited in line
	Reason     string        // why it was refused (refuse), or how it ended (release, timeout)

	// Closed when all apps of the config have started; nil: they have. A connection may come before.
	// A step that asks another app of Caddy's must wait for it.
	Started <-chan struct{}
}

// Values returns the moment's values: {l4.tcplock.<name>} in arguments, TCPLOCK_<NAME> in a
// command's environment.
func (m Moment) Values() map[string]string {
	values := map[string]string{
		"moment":     m.On,
		"name":       m.Lock,
		"slot":       strconv.Itoa(m.Slot),
		"connection": strconv.FormatUint(m.Connection, 10),
		"client":     m.Client,
		"waited":     m.Waited.String(),
		"reason":     m.Reason,
	}
	vars.AddWorker(values, m.Worker)
	return values
}

// Replacer returns a replacer for a step's arguments. It knows Caddy's global placeholders and
// {l4.tcplock.moment|name|slot|worker|worker_host|worker_port|connection|client|waited|reason}. It
// knows nothing else that a client could have sent, on purpose.
func (m Moment) Replacer() *caddy.Replacer { return vars.Replacer(m.Values()) }

// Every is how often a hook runs: in JSON a number (Count) or a duration string
// (Interval).
type Every struct {
	Count    int
	Interval time.Duration
}

// MarshalJSON implements json.Marshaler.
func (e Every) MarshalJSON() ([]byte, error) {
	if e.Interval != 0 {
		return json.Marshal(e.Interval.String())
	}
	return json.Marshal(e.Count)
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *Every) UnmarshalJSON(b []byte) (err error) {
	var s string
	if json.Unmarshal(b, &s) != nil {
		s = string(b)
	}
	if *e, err = ParseEvery(s); err != nil {
		return fmt.Errorf("every: %w", err)
	}
	return nil
}

// ParseEvery reads a number or a duration.
func ParseEvery(s string) (Every, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return Every{Count: n}, nil
	}
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return Every{}, fmt.Errorf("found %s, expected a number or a duration, more than 0", s)
	}
	return Every{Interval: d}, nil
}

// Check returns an error for a value that is out of range, and for a hook without steps.
func (h *Hook) Check() error {
	if err := h.checkConditions(); err != nil {
		return err
	}
	if len(h.StepsRaw)+len(h.steps) == 0 {
		return fmt.Errorf("on %s: found no step, expected at least one (exec, wait, emit ...)", h.On)
	}
	return nil
}

// checkConditions is Check without the steps. The Caddyfile reader reads the steps last.
func (h *Hook) checkConditions() error {
	switch {
	case !slices.Contains(Moments, h.On):
		return fmt.Errorf("on: found %q, expected one of %s", h.On, strings.Join(Moments, ", "))
	case h.On == Idle && h.IdleFor <= 0 || h.On != Idle && h.IdleFor != 0:
		return fmt.Errorf("on %s: found idle time %s, expected a duration of more than 0 with idle, and none with other moments", h.On, time.Duration(h.IdleFor))
	case h.Exclusive && (h.On == Refuse || h.On == Idle):
		return fmt.Errorf("on %s: found exclusive, expected it with activate, release or timeout only", h.On)
	case h.Optional && h.On != Activate:
		return fmt.Errorf("on %s: found optional, expected it with activate only: a failure stops nothing else", h.On)
	case h.ExclusiveWait < 0 || h.ExclusiveWait > 0 && !h.Exclusive:
		return fmt.Errorf("on %s: found exclusive_wait %s, expected 0 or more, and exclusive with it", h.On, time.Duration(h.ExclusiveWait))
	case h.Retry < 0:
		return fmt.Errorf("on %s: found retry %d, expected 0 or more", h.On, h.Retry)
	case h.RetryInterval < 0 || h.RetryInterval > 0 && h.Retry == 0:
		return fmt.Errorf("on %s: found retry_interval %s, expected 0 or more, and retry with it", h.On, time.Duration(h.RetryInterval))
	}
	return nil
}

// New returns a hook with steps that no config has loaded, for tests. StepsRaw only identifies
// them.
func New(h Hook, steps ...Step) (*Hook, error) {
	h.steps = steps
	return &h, h.setKey()
}

// Provision loads the hook's steps.
func (h *Hook) Provision(ctx caddy.Context) error {
	if err := h.setKey(); err != nil {
		return err
	}
	mods, err := ctx.LoadModule(h, "StepsRaw")
	if err != nil {
		return fmt.Errorf("on %s: loading steps: %w", h.On, err)
	}
	for _, mod := range mods.([]any) {
		step, ok := mod.(Step)
		if !ok {
			return fmt.Errorf("on %s: %T is not a tcplock step", h.On, mod)
		}
		h.steps = append(h.steps, step)
	}
	return nil
}

func (h *Hook) setKey() error {
	key, err := json.Marshal(h.Written())
	h.key = string(key)
	return err
}

// Key identifies the hook across reloads. Other settings give another key.
func (h *Hook) Key() string { return h.key }

// CountApart gives the hook a key that no other hook has, so that two equal hooks are counted
// separately.
func (h *Hook) CountApart(others []*Hook) {
	for slices.ContainsFunc(others, func(other *Hook) bool { return other.key == h.key }) {
		h.key += "+"
	}
}

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

// Run runs the hook's steps. After a failure it tries again, from the failed step on.
func (h *Hook) Run(ctx context.Context, m Moment) error {
	failures := 0
	for next := 0; next < len(h.steps); {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := runStep(ctx, h.steps[next], m); err == nil {
			next++
		} else if failures++; failures > h.Retry || !clock.Sleep(ctx, time.Duration(h.RetryInterval)) {
			return err
		}
	}
	return nil
}

func runStep(ctx context.Context, s Step, m Moment) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("step panicked: %v\n%s", r, debug.Stack())
		}
	}()
	return s.Run(ctx, m)
}

// CheckPlaceholders returns an error for a placeholder that the replacer of a moment does not
// know, above all for one with text that a client has sent.
func CheckPlaceholders(s string) error { return vars.Check(s, Moment{}.Values()) }

// CheckTimeout returns an error for a timeout that is less than 0.
func CheckTimeout(d caddy.Duration) error {
	if d < 0 {
		return fmt.Errorf("timeout: found %s, expected a duration of 0 (the default) or more", time.Duration(d))
	}
	return nil
}
