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

// use sets the hooks of the current config.
func (c *idleClock) use(hooks []*hook.Hook, visits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks = hooks
	c.goOn(visits)
}

// again sets the timer once more: it may have fired while the hook could not run.
func (c *idleClock) again(visits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goOn(visits)
}

// quiet begins a period. No call ends it: if the timer fires while there are connections,
// nothing happens.
func (c *idleClock) quiet(visits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(visits)
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

// The mutex is held in all functions below.

// goOn sets the timer for the next hook of the period. If connections have come, it begins a new one:
// they may have gone without a call of quiet, as when there was no idle hook.
func (c *idleClock) goOn(visits uint64) {
	if visits != c.visits {
		c.begin(visits)
	}
	c.set()
}

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

// visits is how many connections have come.
func (l *Lock) visits() uint64 {
	visits, _ := l.queue.Idle()
	return visits
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
	if h := l.idle.take(l.visits()); h != nil {
		l.Publish(status.Event{Event: status.EventIdle, Moment: hook.Idle, Reason: "for " + time.Duration(h.IdleFor).String()})
		if due, _ := l.schedule.Due(h, time.Now()); due {
			_ = l.runHook(h, hook.Moment{On: hook.Idle, Lock: l.Name()}, p)
		}
	}
	woken, _ := l.queue.EndExclusive(p, time.Now())
	grant(woken...)
	l.idle.again(l.visits())
}
