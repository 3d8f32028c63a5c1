package lock

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// failing says that a lock's activate hooks refuse connections. It is a new value for each
// refusal, so that status and metrics read it without a mutex.
type failing struct {
	since       time.Time // the first refusal
	connections uint64    // refused since then
	hook        string    // the key of the hook that refused the last of them
	err         string    // why
	mended      atomic.Bool
}

// failings holds the failing of a lock, nil while its activate hooks go well. Only a refusal,
// and the first success after one, write to it.
type failings struct{ now atomic.Pointer[failing] }

// refused records that h has refused a connection.
func (f *failings) refused(h *hook.Hook, err error) {
	for {
		before := f.now.Load()
		next := &failing{since: time.Now(), connections: 1, hook: h.Key(), err: text.FirstLine(err.Error())}
		if before != nil {
			next.since, next.connections = before.since, before.connections+1
		}
		if f.now.CompareAndSwap(before, next) {
			return
		}
	}
}

// ran notes that h has gone well. That alone does not end a failing: a later hook of the same
// activation may refuse the connection.
func (f *failings) ran(h *hook.Hook) {
	if now := f.now.Load(); now != nil && now.hook == h.Key() {
		now.mended.Store(true)
	}
}

// passed notes that all activate hooks which were due have gone well. The hook that refused the
// last connection may not have been among them: it is not due while it runs for another slot.
// So it must have run since.
func (f *failings) passed() {
	if now := f.now.Load(); now != nil && now.mended.Load() {
		f.now.CompareAndSwap(now, nil)
	}
}

// keep drops a failing whose hook has none of these keys. If the hook comes back, it starts anew.
func (f *failings) keep(keys map[string]bool) {
	now := f.now.Load()
	if now != nil && !keys[now.hook] {
		f.now.CompareAndSwap(now, nil)
	}
}

// activates reports whether the config has the activate hook with this key.
func (c *Config) activates(key string) bool {
	return slices.ContainsFunc(c.hooks[hook.Activate], func(h *hook.Hook) bool { return h.Key() == key })
}

// failing returns what is wrong with the activate hooks, nil if nothing is. A connection may
// still be refused by a hook that a reload has taken away: that does not count.
func (l *Lock) failing() *failing {
	if now := l.failings.now.Load(); now != nil && l.current.Load().activates(now.hook) {
		return now
	}
	return nil
}

// failingStatus is failing as operators see it.
func (l *Lock) failingStatus(now time.Time) *status.Failing {
	f := l.failing()
	if f == nil {
		return nil
	}
	return &status.Failing{Since: clock.Wall(f.since, now), Connections: f.connections, Error: f.err}
}
