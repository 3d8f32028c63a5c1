package tcplock

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// lock is a queue with a name, the settings in force, and what it and its hooks remember.
type lock struct {
	firstName string       // see name
	users     atomic.Int64 // see registry

	queue *queue.Queue
	pool  pool.Pool
	configStack
	hookState

	record  *record.Record
	emitter emitter
	logLimits

	idle     idleClock
	pauses   pauses
	sockets  fds.Sockets     // to the service, for the budget of descriptors
	handling atomic.Int64    // connections in Handle
	leftOver atomic.Int64    // connections whose slot was handed on without them
	ctx      context.Context // done when hooks must end
	cancel   context.CancelFunc
}

// configStack has the configs whose apps have all started, the newest last: it is the one in
// force. During a reload there are two for a while. A config that fails while its apps start
// never gets here, so it changes nothing. Caddy may still drop a config after that: then
// deactivate puts the one before back in force. So the lock forgets nothing that belongs to a
// config on this list.
type configStack struct {
	mu         sync.Mutex
	configs    []*config
	current    atomic.Pointer[config]
	lastLogged string // what the log says of the lock's place, see tellPlace
}

// hookState is what hooks need to know of the past.
type hookState struct {
	schedule hook.Schedule
	failings failings
	refusing atomic.Bool // refuse hooks are running
}

// logLimits keep a flood out of the log.
type logLimits struct {
	refusals clock.Limit // of the lines of connections that never had a slot
	discards clock.Limit // of the warnings of discarded bytes
}

// Destruct ends a lock that has no user any more. It waits for nothing, because Caddy lets no
// other reload begin meanwhile: its processes end by themselves from here on, and those that
// come in their place wait for that (see ends).
func (l *lock) Destruct() error {
	l.cancel()
	l.sockets.SetSlots(0)
	l.idle.use(nil, 0)
	l.pauses.drop()
	l.pool.Halt()
	return nil
}

// activate puts c in force, whose apps have all started.
func (l *lock) activate(c *config) {
	defer l.tellPlace()
	defer l.tellRename(l.Name())
	c.started.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs = append(l.configs, c)
	l.forgetHooks()
	l.apply(c)
}

// deactivate takes c off, wherever it stands. The last one's settings stay in force for those
// who are still there.
func (l *lock) deactivate(c *config) {
	defer l.tellPlace()
	defer l.tellRename(l.Name())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs = slices.DeleteFunc(l.configs, func(other *config) bool { return other == c })
	if len(l.configs) == 0 {
		visits, _ := l.queue.Quiet()
		l.idle.use(nil, visits)
		return
	}
	l.forgetHooks()
	if newest := l.configs[len(l.configs)-1]; newest != l.current.Load() {
		l.apply(newest)
	}
}

// forgetHooks forgets what the lock knows of hooks that no config has any more. l.mu is held.
func (l *lock) forgetHooks() {
	keys := make(map[string]bool)
	for _, c := range l.configs {
		for _, hooks := range c.hooks {
			for _, h := range hooks {
				keys[h.Key()] = true
			}
		}
	}
	l.schedule.Keep(keys)
	l.failings.keep(keys)
}

// tellRename tells of a change of the lock's name. It is called when the lock's mutex has
// been given back, since it writes to the log.
func (l *lock) tellRename(before string) {
	if now := l.Name(); now != before {
		l.Logger().Info("lock renamed", zap.String("lock", now), zap.String("before", before))
		l.Publish(status.Event{Event: status.EventRenamed, Reason: "before: " + before})
	}
}

// tellPlace logs where the lock listens, to what it leads, and how many slots it has, unless the
// last line says the same. It is called as tellRename is.
func (l *lock) tellPlace() {
	l.mu.Lock()
	if len(l.configs) == 0 {
		l.lastLogged = "" // if the lock comes back, the log says so
		l.mu.Unlock()
		return
	}
	c, slots := l.configs[len(l.configs)-1], l.pool.Slots()
	place := fmt.Sprint(c.listen, c.to, slots)
	same := place == l.lastLogged
	l.lastLogged = place
	l.mu.Unlock()
	if !same {
		c.logger.Info("lock listens", zap.String("lock", l.Name()), zap.Strings("listen", c.listen), zap.Strings("to", c.to), zap.Int("slots", slots))
	}
}

// activateFirst puts c in force if nothing is: a connection may come before the config has
// started to the end, or after it has been removed.
func (l *lock) activateFirst(c *config) error {
	if l.current.Load() != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.current.Load() != nil:
	case !c.defined: // the config is about to be refused
		return fmt.Errorf("lock %s has no settings", l.Name())
	default:
		l.apply(c)
	}
	return nil
}

// apply puts c's settings in force. l.mu is held.
func (l *lock) apply(c *config) {
	l.current.Store(c)
	settings := &c.settings
	l.sockets.SetSlots(settings.slots())
	b := queue.Bounds{
		MaxWaiting:       queue.Unlimited,
		PerClient:        settings.MaxPerClient,
		WaitingPerClient: settings.MaxWaitingPerClient,
		PriorityAge:      time.Duration(settings.PriorityAge),
	}
	if settings.MaxWaiting != nil {
		b.MaxWaiting = *settings.MaxWaiting
	}
	l.pool.Set(settings.wanted(), func(slots int) {
		b.Limit = slots
		grant(l.queue.Set(b, time.Now())...)
	})
	visits, _ := l.queue.Quiet()
	l.idle.use(c.hooks[hook.Idle], visits)
	workers := 0
	if settings.pooled() {
		workers = settings.slots()
	}
	l.record.Expect(maps.Keys(c.hooks), workers, settings.Service != nil)
}

// out and in implement pool.Lock.

func (l *lock) Out(slot int) (vacant bool) { return l.queue.Out(slot) }

func (l *lock) In(slot int) { grant(l.queue.In(slot, time.Now())) }

// giveBack gives p's slot back, to the next in line.
func (l *lock) giveBack(p *queue.Waiter) {
	grant(l.queue.Release(p, time.Now()))
	l.noteIdle()
}

func (l *lock) Logger() *zap.Logger { return l.current.Load().logger }

// owner is the owner of a queue's waiter, if it wants to hear what becomes of it. The lock calls it
// without the queue's mutex, and it must not block: that of a waiting connection is a wake-up.
type owner interface {
	granted()    // the waiter has a slot, or its turn to be exclusive
	turnedAway() // it has left the line, by Close or Expel
}

// grant tells those that were granted a slot, or their turn to be exclusive. None is told of the
// waiter of an idle hook: it has no owner.
func grant(waiters ...*queue.Waiter) {
	for _, p := range waiters {
		if p == nil {
			continue
		}
		if o, ok := p.Owner.(owner); ok {
			o.granted()
		}
	}
}

// shutDown lets the holders finish for as long as the settings say, refuses the line, and
// then cuts who is left and ends the hooks and the service's processes. It is for the end
// of the process: a lock does not come back from it.
func (l *lock) shutDown() {
	for _, p := range l.queue.Close() {
		p.Owner.(owner).turnedAway()
	}
	// From here on nobody is admitted. To ask before that would miss a connection that comes
	// in between.
	vacant := l.queue.Vacant()
	c := l.current.Load()
	if c == nil {
		return // nobody has been here
	}
	drained := clock.Wait(vacant, c.settings.drain())
	last := time.Now().Add(lastGrace)
	if !drained {
		l.cancel()
		_, holders, _ := l.queue.Snapshot(0)
		for _, p := range holders {
			if w, ok := p.Owner.(*waiter); ok {
				w.conn.Cut()
			}
		}
		clock.Wait(vacant, time.Until(last))
	}
	// Clients may still be getting the end of an answer. One that never closes is not
	// waited for any longer.
	clock.Until(last, func() bool { return l.handling.Load() == 0 && l.emitter.idle() })
	// Hooks of holders are over. What that of a refusal has started does not end by itself.
	l.cancel()
	clock.Until(time.Now().Add(lastGrace), func() bool { return !l.refusing.Load() })
	l.pool.Stop()
	clock.Until(time.Now().Add(lastGrace), l.emitter.idle)
	l.refusals.Flush()
	l.discards.Flush()
}

// lastGrace is how long all that is left when the drain is over may take: a cut connection to
// come back from its handlers, clients to take the end of their answer. A hook that is killed
// may take as long to end.
const lastGrace = time.Second
