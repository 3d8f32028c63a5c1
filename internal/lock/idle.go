package lock

import (
	"sync"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// idleClock decides when idle hooks are due. An idle period begins when the last connection has
// ended, and each hook runs once in a period. The lock's mutex may be held when that of the clock
// is taken, not the other way round.
type idleClock struct {
	fire func() // called when a hook may be due

	mu     sync.Mutex
	hooks  []*hook.Hook // of the config in force; none if there is no config
	timer  *time.Timer
	since  time.Time       // when the period began
	visits uint64          // how many connections had come by then, see queue.Idle
	ran    map[string]bool // the hooks that have run in this period, by key
}

// use sets the hooks of the current config. If connections have come meanwhile, it begins a new
// period: begin is not called while there is no idle hook.
func (c *idleClock) use(hooks []*hook.Hook, visits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks = hooks
	if visits != c.visits {
		c.begin(visits)
	}
	c.set()
}

// quiet begins a period. No call ends it: if the timer fires while there are connections,
// nothing happens.
func (c *idleClock) quiet(visits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(visits)
	c.set()
}

// again sets the timer once more: it may have fired while the hook could not run.
func (c *idleClock) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set()
}

// take returns the hook that is due now, nil if none is, and notes that it has run.
func (c *idleClock) take(visits uint64) *hook.Hook {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.next()
	if h == nil || visits != c.visits || time.Since(c.since) < time.Duration(h.IdleFor) {
		return nil
	}
	c.ran[h.Key()] = true
	return h
}

// goOn sets the timer for the next hook of the period. It returns false if the period is over,
// because connections have come.
func (c *idleClock) goOn(visits uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if visits != c.visits {
		return false
	}
	c.set()
	return true
}

// All below is called with the mutex held.

func (c *idleClock) begin(visits uint64) {
	c.since, c.visits, c.ran = time.Now(), visits, make(map[string]bool)
}

func (c *idleClock) set() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if h := c.next(); h != nil {
		c.timer = time.AfterFunc(time.Until(c.since.Add(time.Duration(h.IdleFor))), c.fire)
	}
}

// next is the hook of this period that is due first, nil if there is none. Of two with one
// time it is the first.
func (c *idleClock) next() (next *hook.Hook) {
	for _, h := range c.hooks {
		if !c.ran[h.Key()] && (next == nil || h.IdleFor < next.IdleFor) {
			next = h
		}
	}
	return next
}

// noteIdle begins an idle period if no connection holds or waits any more.
func (l *Lock) noteIdle() {
	if len(l.current.Load().hooks[hook.Idle]) == 0 {
		return
	}
	if visits, quiet := l.queue.Idle(); quiet {
		l.idle.quiet(visits)
	}
}

// idleNow runs the next idle hook if it is due. The hook has the whole queue while it runs,
// so that no connection reaches a service that is being stopped.
func (l *Lock) idleNow() {
	if !l.Enter() {
		return
	}
	defer l.Exit()
	p := new(queue.Waiter)
	if !l.queue.TryExclusive(p) {
		return
	}
	visits, _ := l.queue.Idle() // a connection may have come and gone without a call of noteIdle
	if h := l.idle.take(visits); h != nil {
		l.Publish(status.Event{Event: status.EventIdle, Moment: hook.Idle, Reason: "for " + time.Duration(h.IdleFor).String()})
		if due, _ := l.schedule.Due(h, time.Now()); due {
			_ = l.runHook(h, hook.Moment{On: hook.Idle, Lock: l.Name()}, p)
		}
	}
	woken, _ := l.queue.EndExclusive(p, time.Now())
	grant(woken...)
	if visits, _ := l.queue.Idle(); !l.idle.goOn(visits) {
		l.noteIdle() // a connection that came and went meanwhile could not call it
	}
}
