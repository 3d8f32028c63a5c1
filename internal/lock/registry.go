package lock

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"go.uber.org/zap"
)

// registry has the locks of the process. A lock stays in it while a config, a connection or a
// background hook uses it. So a lock outlives reloads. A lock that leaves the config and comes
// back while old holders remain is the same lock and still counts them.
//
// Names belong to configs, and a reload can rename a lock. So the registry is not keyed by name,
// and a user of a lock keeps its pointer and never looks it up again.
type registry struct {
	mu  sync.Mutex // may be held when a lock's mutex is taken, not the other way round
	all map[*Lock]struct{}

	exits    pool.Exits // of the processes of all locks
	listing  listing
	shutDown sync.Once
}

var locks = registry{all: make(map[*Lock]struct{})}

// list returns the locks in no order. Any of them may end at any time: see Enter.
func (r *registry) list() (all []*Lock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.all {
		all = append(all, l)
	}
	return all
}

// enter returns the lock that has this name now, a new lock if there is none. The
// caller has to exit it.
func (r *registry) enter(name string) *Lock {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.all {
		if l.Name() == name && l.Enter() {
			return l
		}
	}
	return r.add(name)
}

// add makes a lock, with one user. r.mu is held.
func (r *registry) add(name string) *Lock {
	l := &Lock{
		firstName: name,
		queue:     queue.New(queue.Bounds{MaxWaiting: queue.Unlimited}),
		record:    record.New(),
	}
	l.pool.Lock, l.pool.Exits = l, &r.exits
	l.idle.fire = l.idleNow
	l.idle.begin(0)
	l.users.Store(1)
	l.refusals.Most = refusalsLogged
	l.refusals.Tell = l.tellRefusals
	l.discards.Most, l.discards.Per = 1, time.Minute
	l.discards.Tell = l.tellDiscards
	l.ctx, l.cancel = context.WithCancel(context.Background())
	r.all[l] = struct{}{}
	return l
}

// Enter adds a user to the lock. It returns false if the last user has gone: such a lock
// never comes back, since its end has begun.
func (l *Lock) Enter() bool {
	for n := l.users.Load(); n > 0; n = l.users.Load() {
		if l.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// Exit removes a user. When the last user exits, the lock ends.
func (l *Lock) Exit() {
	if l.users.Add(-1) > 0 {
		return
	}
	locks.mu.Lock()
	delete(locks.all, l)
	locks.mu.Unlock()
	l.end()
}

// Name is the lock's name in the config in force. Before a config is in force, it is the
// name that the lock was made for.
func (l *Lock) Name() string {
	if c := l.current.Load(); c != nil && c.name != "" {
		return c.name
	}
	return l.firstName
}

// Enter returns the waiter of a connection that has come by c, and keeps the lock in use. The config
// may have ended, and its lock with it: then the connection gets the lock that has the name now.
func (c *Config) Enter(cx *layer4.Connection) *Waiter {
	outer, _ := cx.GetVar(connVar).(*Waiter)
	w := c.enter(outer)
	if outer == nil && len(cx.MatchingBytes()) == 0 {
		w.detach(cx.Conn)
	}
	if !w.isDetached() {
		w.conn = client.New(cx)
		if outer != nil {
			w.conn.Outer = outer.conn
		}
	}
	w.came(cx.Conn, cx.RemoteAddr())
	return w
}

// enter keeps the lock in use for a waiter.
func (c *Config) enter(outer *Waiter) *Waiter {
	if c.find != nil {
		c.find()
	}
	l := c.lock
	if !l.Enter() {
		l = locks.enter(c.name)
	}
	w := &Waiter{lock: l, config: c, outer: outer}
	w.users.Store(1)
	l.handling.Add(1)
	return w
}

// assign gives each config its lock. configs are those of one Caddy config, by the name of the
// lock; listen has the names of the locks behind each listen address. All handlers of the Caddy
// config must be provisioned before: only all names together tell which lock is renamed.
func (r *registry) assign(configs map[string]*Config, listen map[string][]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	named := make(map[string]*Lock)
	for l := range r.all {
		named[l.Name()] = l
	}
	renamed := renamed(named, configs, listen)
	for name, c := range configs {
		c.lock = named[name]
		if c.lock == nil {
			c.lock = renamed[name]
		}
		if c.lock == nil || !c.lock.Enter() {
			c.lock = r.add(name)
		}
	}
}

// renamed returns the locks that a config gives a new name, by the new name. A lock is
// renamed if its name has gone from the config, and a listen address that led to it leads to
// a name that there was not before. It must be clear which lock gets which name: one of each
// at the address, and no other address says otherwise. named has all locks by name.
func renamed(named map[string]*Lock, configs map[string]*Config, listen map[string][]string) map[string]*Lock {
	gone := make(map[string][]*Lock) // by address
	for name, l := range named {
		if c := l.current.Load(); c != nil && configs[name] == nil {
			for _, address := range c.listen {
				gone[address] = append(gone[address], l)
			}
		}
	}
	to, from := make(map[*Lock][]string), make(map[string][]*Lock)
	for address, here := range listen {
		fresh := slices.DeleteFunc(slices.Clone(here), func(name string) bool { return named[name] != nil || configs[name] == nil })
		before := configured(gone[address])
		if len(fresh) == 1 && len(before) == 1 && !slices.Contains(from[fresh[0]], before[0]) {
			to[before[0]] = append(to[before[0]], fresh[0])
			from[fresh[0]] = append(from[fresh[0]], before[0])
		}
	}
	renamed := make(map[string]*Lock)
	for name, locks := range from {
		if len(locks) == 1 && len(to[locks[0]]) == 1 {
			renamed[name] = locks[0]
		}
	}
	return renamed
}

// configured returns those of some locks that a config has. If there are none it returns
// all: locks that only have their old holders still.
func configured(some []*Lock) []*Lock {
	if with := slices.DeleteFunc(slices.Clone(some), func(l *Lock) bool { return !l.configured() }); len(with) > 0 {
		return with
	}
	return some
}

func (l *Lock) configured() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.configs) > 0
}

// InForce returns all locks that have settings, by name.
func InForce() []*Lock {
	all := slices.DeleteFunc(locks.list(), func(l *Lock) bool { return l.current.Load() == nil })
	slices.SortFunc(all, func(a, b *Lock) int { return strings.Compare(a.Name(), b.Name()) })
	return all
}

// warnOfOldLocks warns of locks that still have connections while an address that led to
// them leads to another lock now, where they are not renamed: both serve that address until
// the old one is empty. It is called before the config is in force.
func warnOfOldLocks(configs map[string]*Config, listen map[string][]string, logger *zap.Logger) {
	for _, old := range InForce() {
		s := old.queue.Stats()
		leftOver := old.leftOver.Load()
		if s.Held == 0 && s.Waiting == 0 && leftOver == 0 {
			continue
		}
		for _, address := range old.current.Load().listen {
			if lock := newcomer(configs, listen[address], address, old); lock != "" {
				logger.Warn("listen address leads to another lock now, and its former lock still has connections: until they end, both locks may let connections through to one service",
					zap.String("address", address), zap.String("lock", lock), zap.String("former_lock", old.Name()),
					zap.Int("holders", s.Held), zap.Int("waiters", s.Waiting), zap.Int64("left_over", leftOver))
			}
		}
	}
}

// newcomer returns the name of a lock to which the address leads only now. here has the locks to
// which it leads. It returns "" if there is none, or if the address still leads to the old lock.
func newcomer(configs map[string]*Config, here []string, address string, old *Lock) (name string) {
	for _, here := range here {
		switch c := configs[here]; {
		case c == nil:
		case c.lock == old:
			return ""
		case c.lock.current.Load() == nil || !slices.Contains(c.lock.current.Load().listen, address):
			name = here
		}
	}
	return name
}

// ShutDown shuts all locks down, once in the life of the process. If the last config has
// none, connections may still be in those of the configs before.
func ShutDown() {
	locks.shutDown.Do(func() {
		var ends sync.WaitGroup
		for _, l := range locks.list() {
			ends.Go(l.shutDown)
		}
		ends.Wait()
		locks.exits.Await() // also of locks that are no more
	})
}
