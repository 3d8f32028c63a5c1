package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// runHooks runs the hooks of a moment for a holder, in order. At activate, the first hook
// that fails and is not optional is the last. At other moments the remaining hooks still run.
func (l *Lock) runHooks(on string, holder *Holder) error {
	hooks := l.current.Load().hooks[on]
	if len(hooks) == 0 {
		return nil
	}
	w := holder.waiter
	start := time.Now()
	defer func() { w.trip.hooked += time.Since(start) }()
	for _, h := range hooks {
		if !holder.due(h) {
			continue
		}
		if err := l.runHook(h, w.moment(on, holder.endReason()), &w.queued); err != nil && on == hook.Activate && !h.Optional {
			if !w.kicked.Load() { // else an operator ends the connection, and may have ended the hook
				l.failings.refused(h, err)
			}
			return fmt.Errorf("activate hook: %w", err)
		}
	}
	if on == hook.Activate {
		l.failings.passed()
	}
	return nil
}

// due reports whether a hook is to run for this holder now. With every <n> only connections
// that reach the service count. Before activate hooks that is not known yet: the connection
// counts at once, so that two slots never both find room for the last one, and recount
// corrects it.
func (h *Holder) due(which *hook.Hook) bool {
	schedule := &h.waiter.lock.schedule
	if which.On == hook.Release && which.Every.Count > 0 && !h.counts {
		return schedule.Overdue(which, time.Now())
	}
	due, tally := schedule.Due(which, time.Now())
	if which.On == hook.Activate && which.Every.Count > 0 {
		h.tallies = append(h.tallies, tally)
	}
	return due
}

// runHook runs one hook that is due, for the holder of p, and logs how it went. A hook
// that failed is due again.
func (l *Lock) runHook(h *hook.Hook, m hook.Moment, p *queue.Waiter) error {
	start := time.Now()
	config := l.current.Load()
	m.Started = config.started
	err := l.runAlone(h, m, p)
	took := time.Since(start)
	l.record.Hook.WithLabelValues(m.On).Observe(took.Seconds())
	fields := []zap.Field{
		zap.String("lock", m.Lock),
		zap.String("moment", m.On),
		zap.Int("slot", m.Slot),
		zap.Uint64("connection", m.Connection),
		zap.String("client", m.Client),
		zap.Duration("duration", took),
	}
	if err != nil {
		l.schedule.Owe(h)
		l.record.HookRuns.WithLabelValues(m.On, record.HookFailed).Inc()
		l.Publish(status.Event{Event: status.EventHookFailed, Slot: m.Slot, Worker: m.Worker, Connection: m.Connection, Client: m.Client, Moment: m.On, Reason: m.Reason, Error: err.Error()})
		config.hookLog.Error("hook failed", append(fields, zap.Error(err))...)
		return err
	}
	l.failings.ran(h)
	l.record.HookRuns.WithLabelValues(m.On, record.HookOK).Inc()
	config.hookLog.Info("hook done", fields...)
	return nil
}

// runAlone runs the hook. An exclusive hook waits until all other holders are gone. The idle hook
// and "run now" are already exclusive.
func (l *Lock) runAlone(h *hook.Hook, m hook.Moment, p *queue.Waiter) error {
	if w, ok := p.Owner.(*Waiter); ok && h.Exclusive {
		defer w.endExclusive()
		if err := w.beginExclusive(time.Duration(h.ExclusiveWait)); err != nil {
			return err
		}
	}
	return h.Run(l.ctx, m)
}

// beginExclusive waits until every other holder is gone.
func (w *Waiter) beginExclusive(longest time.Duration) error {
	ctx, q := w.lock.ctx, w.lock.queue
	var until time.Time
	if longest > 0 {
		until = time.Now().Add(longest)
	}
	h := w.holder.Load()
	grant(q.BeginExclusive(&w.queued, h.atService())) // which may be this one
	for !q.IsExclusive(&w.queued) {
		if w.kicked.Load() && h.state() == status.StateActivating {
			return errors.New("exclusive: the connection that it was to run for was kicked")
		}
		if w.conn.ParkOnChannel(until, ctx.Done()) != client.Called {
			return fmt.Errorf("exclusive: the other holders have not finished: %w", cmp.Or(ctx.Err(), context.DeadlineExceeded))
		}
	}
	return nil
}

// endExclusive lets the line go on. If beginExclusive failed and another waiter is exclusive now,
// this connection must not run beside it, so it waits until that one ends.
func (w *Waiter) endExclusive() {
	woken, ok := w.lock.queue.EndExclusive(&w.queued, time.Now())
	for ; !ok; woken, ok = w.lock.queue.EndExclusive(&w.queued, time.Now()) {
		w.conn.ParkOnChannel(time.Time{}, nil)
	}
	grant(woken...)
}

// runRefuseHooks runs the refuse hooks in the background, so that a refused client does not wait for
// them. No slot bounds how many run at once. So only one refusal at a time runs them; the others
// only count.
func (l *Lock) runRefuseHooks(w *Waiter) {
	if len(l.current.Load().hooks[hook.Refuse]) == 0 {
		return
	}
	m := w.moment(hook.Refuse, w.trip.refused)
	var due []*hook.Hook
	free := l.refusing.CompareAndSwap(false, true)
	for _, h := range l.current.Load().hooks[hook.Refuse] {
		if now, _ := l.schedule.Due(h, time.Now()); now {
			due = append(due, h)
		}
	}
	if !free {
		for _, h := range due {
			l.schedule.Owe(h)
		}
		return
	}
	l.Enter() // true, because the connection is in the lock
	go func() {
		defer l.Exit()
		defer l.refusing.Store(false)
		for _, h := range due {
			_ = l.runHook(h, m, new(queue.Waiter))
		}
	}()
}

// failings says that a lock's activate hooks refuse connections.
type failings struct {
	mu     sync.Mutex
	now    status.Failing // no connections: the hooks go well
	hook   string         // the key of the hook that refused the last of them
	mended bool           // that hook has gone well since
}

// refused records that h has refused a connection.
func (f *failings) refused(h *hook.Hook, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now.Connections++; f.now.Connections == 1 {
		f.now.Since = time.Now()
	}
	f.now.Error = text.FirstLine(err.Error())
	f.hook, f.mended = h.Key(), false
}

// ran notes that h has gone well. That alone does not end a failing: a later hook of the same
// activation may refuse the connection.
func (f *failings) ran(h *hook.Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mended = f.mended || f.hook == h.Key()
}

// passed notes that all activate hooks which were due have gone well. The hook that refused the
// last connection may not have been among them: it is not due while it runs for another slot.
// So it must have run since.
func (f *failings) passed() { f.end(func() bool { return f.mended }) }

// keep drops a failing whose hook has none of these keys. If the hook comes back, it starts anew.
func (f *failings) keep(keys map[string]bool) { f.end(func() bool { return !keys[f.hook] }) }

func (f *failings) end(over func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if over() {
		f.now, f.hook, f.mended = status.Failing{}, "", false
	}
}

// failing returns what is wrong with the activate hooks, nil if nothing is. A connection may
// still be refused by a hook that a reload has taken away: that does not count.
func (l *Lock) failing(now time.Time) *status.Failing {
	l.failings.mu.Lock()
	found, key := l.failings.now, l.failings.hook
	l.failings.mu.Unlock()
	if found.Connections == 0 || !slices.ContainsFunc(l.current.Load().hooks[hook.Activate], func(h *hook.Hook) bool { return h.Key() == key }) {
		return nil
	}
	found.Since = clock.Wall(found.Since, now)
	return &found
}
