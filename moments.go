package tcplock

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// runHooks runs the hooks of a moment for c, in order. The first hook that fails and is
// not optional ends an activation; at other moments nothing would be saved by that,
// and the rest of the hooks run.
func (l *lock) runHooks(on string, c *conn) error {
	for _, h := range l.inForce.Load().hooks[on] {
		if !l.schedule.due(h, time.Now()) {
			continue
		}
		if err := l.runHook(h, c.moment(on), &c.place); err != nil && on == onActivate && !h.Optional {
			return fmt.Errorf("activate hook: %w", err)
		}
	}
	return nil
}

// runHook runs one hook that is due, for the holder of p, and logs how it went. A hook
// that failed is due again.
func (l *lock) runHook(h *Hook, m Moment, p *place) error {
	start := time.Now()
	err := l.runAlone(h, m, p)
	fields := []zap.Field{
		zap.String("lock", m.Lock),
		zap.String("moment", m.On),
		zap.Int("slot", m.Slot),
		zap.Uint64("connection", m.Connection),
		zap.String("client", m.Client),
		zap.Duration("duration", time.Since(start)),
	}
	logger := l.inForce.Load().logger
	if err != nil {
		l.schedule.owe(h)
		logger.Error("hook failed", append(fields, zap.Error(err))...)
		return err
	}
	logger.Info("hook done", fields...)
	return nil
}

// runAlone runs the hook when all other holders are gone, if that is its condition.
func (l *lock) runAlone(h *Hook, m Moment, p *place) error {
	if h.Exclusive {
		defer l.include(p)
		if err := l.seclude(p, time.Duration(h.ExclusiveWait)); err != nil {
			return err
		}
	}
	return h.run(l.ctx, m)
}

func (l *lock) seclude(p *place, longest time.Duration) error {
	ctx := l.ctx
	if longest > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, longest)
		defer cancel()
	}
	wake(l.queue.Seclude(p)) // which may be p itself
	for !l.queue.Alone(p) {
		if p.owner.(*conn).parkOnChannel(time.Time{}, ctx.Done()) == parkGone {
			return fmt.Errorf("exclusive: the other holders have not finished: %w", ctx.Err())
		}
	}
	return nil
}

// include ends p's seclusion. If that has been in vain and another place is alone now,
// p must not go on beside it, and waits for its end.
func (l *lock) include(p *place) {
	woken, ok := l.queue.Include(p, time.Now())
	for ; !ok; woken, ok = l.queue.Include(p, time.Now()) {
		p.owner.(*conn).parkOnChannel(time.Time{}, nil)
	}
	wakeAll(woken)
}

// refused runs the refuse hooks in the background: a client that is refused has waited
// long enough, and holds no slot that would bound how many run at once. So one refusal
// at a time runs them; the others only count.
func (l *lock) refused(c *conn) {
	if len(l.inForce.Load().hooks[onRefuse]) == 0 {
		return
	}
	m := c.moment(onRefuse)
	var due []*Hook
	free := l.refusing.CompareAndSwap(false, true)
	for _, h := range l.inForce.Load().hooks[onRefuse] {
		if l.schedule.due(h, time.Now()) {
			due = append(due, h)
		}
	}
	if !free {
		for _, h := range due {
			l.schedule.owe(h)
		}
		return
	}
	enterLock(l.name) // c is in the lock, so this is l
	go func() {
		defer l.exit()
		defer l.refusing.Store(false)
		for _, h := range due {
			_ = l.runHook(h, m, nil)
		}
	}()
}

// idleClock is an idle hook's clock and how long it runs.
type idleClock struct {
	*time.Timer
	runs time.Duration
}

// setIdle replaces the idle hooks' clocks and starts them; what the clocks before them
// showed goes on. l.mu is held.
func (l *lock) setIdle(hooks []*Hook) {
	for _, clock := range l.idle {
		clock.Stop()
	}
	l.idle = nil
	for _, h := range hooks {
		rest := time.Until(l.left.Add(time.Duration(h.IdleFor)))
		l.idle = append(l.idle, idleClock{time.AfterFunc(rest, func() { l.idleFor(h) }), time.Duration(h.IdleFor)})
	}
}

// noteIdle starts the idle hooks' clocks anew if everybody has gone. Nobody stops them:
// a clock that runs out while somebody is there does nothing.
func (l *lock) noteIdle() {
	if len(l.inForce.Load().hooks[onIdle]) == 0 {
		return
	}
	if s := l.queue.Stats(); s.Held > 0 || s.Waiting > 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left, l.idled = time.Now(), make(map[string]bool)
	for _, clock := range l.idle {
		clock.Reset(clock.runs)
	}
}

// idleFor runs an idle hook if it still is its time. The hook holds the whole queue
// while it runs, so that nobody meets a service that is being stopped.
func (l *lock) idleFor(h *Hook) {
	same := enterLock(l.name)
	defer same.exit()
	p := new(place)
	if same != l || !l.isIdle(h) || !l.queue.Seize(p, time.Now()) {
		return
	}
	defer func() {
		l.include(p)
		wake(l.queue.Release(p, time.Now()))
	}()
	if l.schedule.due(h, time.Now()) {
		_ = l.runHook(h, Moment{On: onIdle, Lock: l.name}, p)
	}
}

// isIdle reports whether h's time has come, once in each pause. The clock may have been
// set anew just as it ran out.
func (l *lock) isIdle(h *Hook) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.left) < time.Duration(h.IdleFor) || l.idled[h.key] {
		return false
	}
	l.idled[h.key] = true
	return true
}
