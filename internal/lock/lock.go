// Package lock ties queue, workers and hooks together to a lock with a name: it has the settings in
// force, takes each connection through as a Waiter and a Holder, and does what operators ask for.
package lock

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
	"github.com/seed-4dbef00f/caddy-tcplock/internal/relay"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Lock is a named queue with its active configs, its workers, its hooks and its records.
type Lock struct {
	firstName string // see Name
	lifetime

	queue *queue.Queue
	pool  pool.Pool
	configStack
	hookState

	record  *record.Record
	emitter emitter
	logLimits

	idle     idleClock
	outage   outage
	pauses   pauses
	sockets  fds.Sockets  // to the service, for the budget of descriptors
	handling atomic.Int64 // connections in the lock
	leftOver atomic.Int64 // connections whose slot was handed on without them
}

// lifetime is the time from a lock's first user to its last one, see registry.
type lifetime struct {
	users  atomic.Int64
	ctx    context.Context // done when hooks must end
	cancel context.CancelFunc
}

// configStack lists the configs whose apps have all started. The newest is last, and is the
// current one. During a reload there are two for a while. Caddy may still drop the newer one: then
// the one before it is current again. So the lock keeps the state of every config on this list.
type configStack struct {
	mu         sync.Mutex
	configs    []*Config
	current    atomic.Pointer[Config]
	lastLogged string // the last line of logListens
}

// hookState is what the lock remembers from one run of a hook to the next.
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

// end ends a lock without users. It does not wait, because Caddy starts no other reload meanwhile. The
// lock's processes end in the background, and a new process in the place of one waits for its exit.
func (l *Lock) end() {
	l.cancel()
	l.sockets.SetSlots(0)
	l.idle.use(nil, 0)
	l.pauses.mu.Lock()
	l.pauses.stop()
	l.pauses.mu.Unlock()
	l.pool.Halt()
}

// activate makes c current. All apps of its Caddy config have started.
func (l *Lock) activate(c *Config) {
	defer l.logListens()
	defer l.logRename(l.Name())
	close(c.started)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs = append(l.configs, c)
	l.forgetHooks()
	l.apply(c)
}

// deactivate removes c from the list. If it was the last config, its settings stay current for
// the connections that are still there.
func (l *Lock) deactivate(c *Config) {
	defer l.logListens()
	defer l.logRename(l.Name())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs = slices.DeleteFunc(l.configs, func(other *Config) bool { return other == c })
	if len(l.configs) == 0 {
		l.idle.use(nil, l.visits())
		return
	}
	l.forgetHooks()
	if newest := l.configs[len(l.configs)-1]; newest != l.current.Load() {
		l.apply(newest)
	}
}

// forgetHooks drops the state of hooks that no config has any more. l.mu is held.
func (l *Lock) forgetHooks() {
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

// logRename logs and publishes a change of the lock's name. The caller must not hold l.mu,
// because writing to the log may block.
func (l *Lock) logRename(before string) {
	if now := l.Name(); now != before {
		l.Logger().Info("lock renamed", zap.String("lock", now), zap.String("before", before))
		l.Publish(status.Event{Event: status.EventRenamed, Reason: "before: " + before})
	}
}

// logListens logs where the lock listens, to what it leads, and how many slots it has, unless the
// last line says the same. It is called as logRename is.
func (l *Lock) logListens() {
	l.mu.Lock()
	if len(l.configs) == 0 {
		l.lastLogged = "" // if the lock comes back, the log says so
		l.mu.Unlock()
		return
	}
	c, slots := l.configs[len(l.configs)-1], l.pool.Slots()
	line := fmt.Sprint(c.listen, c.to, slots)
	same := line == l.lastLogged
	l.lastLogged = line
	l.mu.Unlock()
	if !same {
		c.logger.Info("lock listens", zap.String("lock", l.Name()), zap.Strings("listen", c.listen), zap.Strings("to", c.to), zap.Int("slots", slots))
	}
}

// activateFirst makes c current if the lock has no current config: a connection may come before
// all apps of the config have started, or after the config was removed.
func (l *Lock) activateFirst(c *Config) error {
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

// apply makes c current. l.mu is held.
func (l *Lock) apply(c *Config) {
	l.current.Store(c)
	settings := &c.settings
	l.sockets.SetSlots(settings.slots())
	b := queue.Bounds{
		MaxWaiting:       valueOr(settings.MaxWaiting, queue.Unlimited),
		PerClient:        settings.MaxPerClient,
		WaitingPerClient: settings.MaxWaitingPerClient,
		PriorityAge:      time.Duration(settings.PriorityAge),
	}
	wanted := pool.Wanted{Addresses: settings.addresses(), Pooled: settings.pooled(), Shared: settings.shared(), Service: settings.Service}
	l.pool.Set(wanted, func(slots int) {
		b.Limit = slots
		grant(l.queue.Set(b, time.Now())...)
	})
	l.idle.use(c.hooks[hook.Idle], l.visits())
	expected := record.Expected{
		Moments: maps.Keys(c.hooks), First: 1, Processes: settings.Service != nil,
		Connects: c.connects, Errors: relay.Kinds[:],
	}
	switch {
	case settings.pooled():
		expected.Last = settings.slots()
	case settings.shared() != "":
		expected.First = 0 // which stands for all slots
	}
	l.record.Expect(expected)
}

// Out and In implement pool.Lock.

func (l *Lock) Out(slot int) (vacant bool) {
	if slot == 0 {
		l.queue.OutAll()
		return false
	}
	return l.queue.Out(slot)
}

func (l *Lock) In(slot int) {
	if slot == 0 {
		grant(l.queue.InAll(time.Now())...)
		return
	}
	grant(l.queue.In(slot, time.Now()))
}

// release gives the slot of w to the next in line. If that one is detached, release returns it, and the caller
// starts it or runs it itself.
func (l *Lock) release(w *queue.Waiter) (next *Waiter) {
	woken := l.queue.Release(w, time.Now())
	if woken != nil {
		if next, _ = woken.Owner.(*Waiter); next == nil || !next.isDetached() || next.holder.Load() != nil {
			next = nil // it waits for its turn to be exclusive, or is parked on its socket
			grant(woken)
		}
	}
	l.noteIdle()
	return next
}

func (l *Lock) Logger() *zap.Logger { return l.current.Load().logger }

// owner is the owner of a queue.Waiter that wants to be told what happens to it. The lock calls it
// outside the queue's mutex. It must not block: a waiting connection only wakes up.
type owner interface {
	granted()    // the waiter has a slot, or its turn to be exclusive
	turnedAway() // it has left the line, by Close or Expel
}

// grant tells the owners of waiters that were granted a slot or exclusive access. The waiter of
// an idle hook has no owner.
func grant(waiters ...*queue.Waiter) {
	for _, w := range waiters {
		if w == nil {
			continue
		}
		if o, ok := w.Owner.(owner); ok {
			o.granted()
		}
	}
}

// shutDown refuses the line, lets the holders finish for as long as drain allows, cuts the rest,
// and ends the hooks and the service's processes. It is for the end of the process: the lock
// cannot be used again.
func (l *Lock) shutDown() {
	for _, w := range l.queue.Close() {
		w.Owner.(owner).turnedAway()
	}
	// After Close no connection is admitted. Calling Vacant before it would miss a connection that
	// joins in between.
	vacant := l.queue.Vacant()
	c := l.current.Load()
	if c == nil {
		return // no connection has come
	}
	drained := clock.Wait(vacant, c.settings.drain())
	last := time.Now().Add(lastGrace)
	if !drained {
		l.cancel()
		_, holders, _ := l.queue.Snapshot(0)
		for _, h := range holders {
			if w, ok := h.Owner.(*Waiter); ok {
				w.conn.Cut()
			}
		}
		clock.Wait(vacant, time.Until(last))
	}
	// Clients may still be reading the end of an answer. Do not wait longer for one that never
	// closes.
	clock.Until(last, func() bool { return l.handling.Load() == 0 && l.emitter.idle() })
	// The hooks of holders are over. A command of a refuse hook would not end by itself.
	l.cancel()
	clock.Until(time.Now().Add(lastGrace), func() bool { return !l.refusing.Load() })
	l.pool.Stop()
	clock.Until(time.Now().Add(lastGrace), l.emitter.idle)
	l.refusals.Flush()
	l.discards.Flush()
}

// lastGrace is how long the rest may take after the drain: cut connections to return from their
// handlers, and clients to read the end of their answer. A killed hook may take as long again.
const lastGrace = time.Second
