// Package hook is what the hooks of a lock are made of: a moment, the conditions under which a hook
// runs then, and its steps. A plugin that adds a step implements Step.
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

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
)

// The moments at which hooks run.
const (
	Activate = "activate" // a slot was granted, nothing has been sent to the service yet
	Release  = "release"  // the holder is gone, its slot is not handed on yet
	Timeout  = "timeout"  // hold_timeout is over, the client is cut, the slot is not handed on yet
	Refuse   = "refuse"   // a connection was refused
	Idle     = "idle"     // no connection has held a slot or waited for idle_for
)

// Moments are all of them.
var Moments = []string{Activate, Release, Timeout, Refuse, Idle}

// Hook is a moment, conditions and steps. The hooks of one moment run one after the
// other, in the order of the config; those of different slots run side by side.
//
// A failed activate hook refuses the connection it ran for, unless it is optional,
// and is due again for the next one. A hook of another moment that fails is logged.
type Hook struct {
	// The moment: activate, release, timeout, refuse or idle. Required.
	On string `json:"on"`

	// With "idle" only, and required there: how long no connection must have held a slot
	// or stood in line. The hook runs once in each such pause; connections that come while
	// it runs wait for its end.
	IdleFor caddy.Duration `json:"idle_for,omitempty"`

	// Run not every time. A number n: the first time, and then when n times have been
	// counted since the last run. At activate and release the connections that reached the
	// service are counted, and no others; not those that end by themselves without a byte in
	// either direction. A duration string: when the last run is that long
	// ago (so the first time too). More than zero. Default: every time. The count is kept
	// for the lock, across reloads.
	Every Every `json:"every,omitzero"`

	// First let all other holders finish, and admit nobody until the hook is done.
	// Not with refuse (which has no slot) and idle (which is alone anyway).
	Exclusive bool `json:"exclusive,omitempty"`

	// The longest wait for the other holders; when it is over the hook has failed.
	// Default and zero: none.
	ExclusiveWait caddy.Duration `json:"exclusive_wait,omitempty"`

	// How many more times to try when a step has failed, from that step on.
	// Default and zero: none.
	Retry int `json:"retry,omitempty"`

	// The pause before each of these tries. Default and zero: none.
	RetryInterval caddy.Duration `json:"retry_interval,omitempty"`

	// With activate only: a failure is logged, and the connection goes on. (At other
	// moments it does in any case.) Default: false.
	Optional bool `json:"optional,omitempty"`

	// What to do, in order; at least one.
	StepsRaw []json.RawMessage `json:"steps,omitempty" caddy:"namespace=layer4.tcplock.hooks inline_key=hook"`

	key   string // the hook's own JSON, with defaults written out: what it is counted under
	steps []Step
}

// Namespace is where steps are registered as modules.
const Namespace = "layer4.tcplock.hooks"

// Step is one action of a hook: a module in the namespace layer4.tcplock.hooks. It
// must return soon after ctx is done, and must bound its own time: a step that never
// returns keeps a slot for ever. A panic counts as an error. A reload does not wait for
// steps: Run may still be at work, or be called once more, after the step's Cleanup.
type Step interface {
	Run(ctx context.Context, m Moment) error
}

// Moment says when a hook runs, and for which connection.
type Moment struct {
	On         string        // the moment: activate, release, timeout, refuse or idle
	Lock       string        // the lock's name
	Slot       int           // the slot's index, from 1; 0 if there never was one (refuse)
	Worker     string        // the slot's worker, empty if it has none
	Connection uint64        // its id, a running number of the connections to the lock; 0 if there is none
	Client     string        // the client's address; empty at idle
	Waited     time.Duration // the time the connection stood in line
	Reason     string        // why it was refused (refuse), how it ended (release, timeout)
}

// Values are the moment's placeholders and variables: {l4.tcplock.<name>} in
// arguments, TCPLOCK_<NAME> in a command's environment.
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

// Replacer returns a replacer for a step's arguments: Caddy's global placeholders and
// {l4.tcplock.moment|name|slot|worker|worker_host|worker_port|connection|client|waited|reason}.
// It knows nothing else that a client could have sent, on purpose.
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
func (e *Every) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		s = string(b)
	}
	if err := e.parse(s); err != nil {
		return fmt.Errorf("every: %w", err)
	}
	return nil
}

func (e *Every) parse(s string) error {
	n, err := strconv.Atoi(s)
	if err == nil && n > 0 {
		*e = Every{Count: n}
		return nil
	}
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("found %s, expected a number or a duration, more than 0", s)
	}
	*e = Every{Interval: d}
	return nil
}

// Check refuses values that are out of range, and a hook without steps.
func (h *Hook) Check() error {
	if err := h.checkConditions(); err != nil {
		return err
	}
	if len(h.StepsRaw)+len(h.steps) == 0 {
		return fmt.Errorf("on %s: found no step, expected at least one (exec, wait, emit ...)", h.On)
	}
	return nil
}

// checkConditions is Check without the steps, which the Caddyfile reads after them.
func (h *Hook) checkConditions() error {
	if !slices.Contains(Moments, h.On) {
		return fmt.Errorf("on: found %q, expected one of %s", h.On, strings.Join(Moments, ", "))
	}
	if h.On == Idle && h.IdleFor <= 0 || h.On != Idle && h.IdleFor != 0 {
		return fmt.Errorf("on %s: found idle time %s, expected a duration of more than 0 with idle, and none with other moments", h.On, time.Duration(h.IdleFor))
	}
	if h.Exclusive && (h.On == Refuse || h.On == Idle) {
		return fmt.Errorf("on %s: found exclusive, expected it with activate, release or timeout only", h.On)
	}
	if h.Optional && h.On != Activate {
		return fmt.Errorf("on %s: found optional, expected it with activate only: a failure stops nothing else", h.On)
	}
	if h.ExclusiveWait < 0 || h.ExclusiveWait > 0 && !h.Exclusive {
		return fmt.Errorf("on %s: found exclusive_wait %s, expected 0 or more, and exclusive with it", h.On, time.Duration(h.ExclusiveWait))
	}
	if h.Retry < 0 {
		return fmt.Errorf("on %s: found retry %d, expected 0 or more", h.On, h.Retry)
	}
	if h.RetryInterval < 0 || h.RetryInterval > 0 && h.Retry == 0 {
		return fmt.Errorf("on %s: found retry_interval %s, expected 0 or more, and retry with it", h.On, time.Duration(h.RetryInterval))
	}
	return nil
}

// New returns a hook with steps that no config has loaded, for tests. StepsRaw is only what
// they are known by.
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

// Key is what the hook is known by across reloads. A hook with other settings has another key.
func (h *Hook) Key() string { return h.key }

// CountApart gives the hook a key that none of the others has: twins count on their own.
func (h *Hook) CountApart(others []*Hook) {
	for slices.ContainsFunc(others, func(other *Hook) bool { return other.key == h.key }) {
		h.key += "+"
	}
}

// Run takes the hook's steps, and on failure tries again from the failed one on.
func (h *Hook) Run(ctx context.Context, m Moment) error {
	next := 0
	var err error
	for try := 0; try <= h.Retry; try++ {
		if try > 0 && !clock.Sleep(ctx, time.Duration(h.RetryInterval)) {
			return err
		}
		for err = nil; err == nil && next < len(h.steps); {
			if err = ctx.Err(); err != nil {
				return err
			}
			if err = runStep(ctx, h.steps[next], m); err == nil {
				next++
			}
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func runStep(ctx context.Context, s Step, m Moment) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("step panicked: %v\n%s", r, debug.Stack())
		}
	}()
	return s.Run(ctx, m)
}

// CheckPlaceholders refuses what the replacer of a moment does not know, above all
// everything that could carry what a client has sent.
func CheckPlaceholders(s string) error { return vars.Check(s, Moment{}.Values()) }

// CheckTimeout refuses a timeout that no step can have.
func CheckTimeout(d caddy.Duration) error {
	if d < 0 {
		return fmt.Errorf("timeout: found %s, expected a duration of 0 (the default) or more", time.Duration(d))
	}
	return nil
}
