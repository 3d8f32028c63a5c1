package tcplock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// runHooks runs the hooks of a moment for c, in order. The first hook that fails and is
// not optional ends an activation; at other moments nothing would be saved by that,
// and the rest of the hooks run.
func (l *lock) runHooks(on string, c *conn) error {
	hooks := l.inForce.Load().hooks[on]
	if len(hooks) == 0 {
		return nil
	}
	start := time.Now()
	defer func() { c.hooked += time.Since(start) }()
	for _, h := range hooks {
		if !c.due(h) {
			continue
		}
		if err := l.runHook(h, c.moment(on), &c.place); err != nil && on == onActivate && !h.Optional {
			if !c.kicked.Load() { // else an operator ends the connection, and may have ended the hook
				l.failings.refused(h, err)
			}
			return fmt.Errorf("activate hook: %w", err)
		}
	}
	if on == onActivate {
		l.failings.passed()
	}
	return nil
}

// due reports whether h is to run for c now. With every <n> only connections that reach
// the service count. Before activate hooks that is not known yet: c counts at once, so that
// two slots never both find room for the last one, and recount corrects it.
func (c *conn) due(h *Hook) bool {
	if h.On == onRelease && h.Every.Count > 0 && !c.counts {
		return c.lock.schedule.overdue(h, time.Now())
	}
	due, tally := c.lock.schedule.due(h, time.Now())
	if h.On == onActivate && h.Every.Count > 0 {
		c.tallies = append(c.tallies, tally)
	}
	return due
}

// recount decides, at the end of c's time with a slot, whether c counts for every <n>. If
// the next handler has not returned by now, c has reached the service as far as anybody can
// tell.
func (c *conn) recount() {
	c.mu.Lock()
	c.counts = c.reached.Load() && !c.mute() || !c.returned
	c.mu.Unlock()
	if !c.counts {
		c.uncount()
	}
}

// mute reports whether c has ended by itself without a byte in either direction. So do probes
// that connect and close at once: whether the lock sees that they have gone before they are
// connected to the service is a matter of microseconds, and must not decide about a restart.
func (c *conn) mute() bool {
	reason := c.reason.Load()
	return c.in.Load()+c.out.Load() == 0 && reason != holdTimeout && reason != kicked
}

// uncount makes the activate hooks forget c, which has not reached the service.
func (c *conn) uncount() {
	for _, t := range c.tallies {
		c.lock.schedule.takeBack(t)
	}
	c.tallies = nil
}

// runHook runs one hook that is due, for the holder of p, and logs how it went. A hook
// that failed is due again.
func (l *lock) runHook(h *Hook, m Moment, p *place) error {
	start := time.Now()
	err := l.runAlone(h, m, p)
	took := time.Since(start)
	l.record.hook.WithLabelValues(m.On).Observe(took.Seconds())
	fields := []zap.Field{
		zap.String("lock", m.Lock),
		zap.String("moment", m.On),
		zap.Int("slot", m.Slot),
		zap.Uint64("connection", m.Connection),
		zap.String("client", m.Client),
		zap.Duration("duration", took),
	}
	logger := l.inForce.Load().hookLog
	if err != nil {
		l.schedule.owe(h)
		l.record.hookRuns.WithLabelValues(m.On, hookBroken).Inc()
		l.happened(Event{Event: eventHookFailed, Slot: m.Slot, Worker: m.Worker, Connection: m.Connection, Client: m.Client, Moment: m.On, Reason: m.Reason, Error: err.Error()})
		logger.Error("hook failed", append(fields, zap.Error(err))...)
		return err
	}
	l.failings.ran(h)
	l.record.hookRuns.WithLabelValues(m.On, hookOK).Inc()
	logger.Info("hook done", fields...)
	return nil
}

// runAlone runs the hook when all other holders are gone, if that is its condition. Who is
// no connection is alone already.
func (l *lock) runAlone(h *Hook, m Moment, p *place) error {
	if c, ok := p.owner.(*conn); ok && h.Exclusive {
		defer l.include(c)
		if err := l.seclude(c, c.atService(), time.Duration(h.ExclusiveWait)); err != nil {
			return err
		}
	}
	return h.run(l.ctx, m)
}

// atService reports whether the service has not let go of c yet. That may be so at timeout hooks,
// and at the release hooks of one that was cut.
func (c *conn) atService() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.returned && !c.letIn.IsZero()
}

// seclude waits until c is alone.
func (l *lock) seclude(c *conn, atService bool, longest time.Duration) error {
	ctx, p := l.ctx, &c.place
	if longest > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, longest)
		defer cancel()
	}
	wake(l.queue.Seclude(p, atService)) // which may be p itself
	for !l.queue.Alone(p) {
		if c.kicked.Load() && c.state() == stateActivating {
			return errors.New("exclusive: the connection that it was to run for was kicked")
		}
		if c.parkOnChannel(time.Time{}, ctx.Done()) == parkGone {
			return fmt.Errorf("exclusive: the other holders have not finished: %w", ctx.Err())
		}
	}
	return nil
}

// include ends c's seclusion. If that has been in vain and another place is alone now,
// c must not go on beside it, and waits for its end.
func (l *lock) include(c *conn) {
	woken, ok := l.queue.Include(&c.place, time.Now())
	for ; !ok; woken, ok = l.queue.Include(&c.place, time.Now()) {
		c.parkOnChannel(time.Time{}, nil)
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
		if now, _ := l.schedule.due(h, time.Now()); now {
			due = append(due, h)
		}
	}
	if !free {
		for _, h := range due {
			l.schedule.owe(h)
		}
		return
	}
	l.enter() // true, because c is in the lock
	go func() {
		defer l.exit()
		defer l.refusing.Store(false)
		for _, h := range due {
			_ = l.runHook(h, m, new(place))
		}
	}()
}

// setIdle sets the clock to the next of the idle hooks whose time comes in this pause.
// l.mu is held.
func (l *lock) setIdle() {
	if l.idle != nil {
		l.idle.Stop()
		l.idle = nil
	}
	if h := l.nextIdle(); h != nil {
		l.idle = time.AfterFunc(time.Until(l.left.Add(time.Duration(h.IdleFor))), l.idleNow)
	}
}

// resumeIdle sets the clock after a change of settings. If connections have come meanwhile,
// a new pause has begun: noteIdle does not see that while no idle hook is in force. l.mu is
// held.
func (l *lock) resumeIdle() {
	if visits, _ := l.queue.Quiet(); visits != l.visits {
		l.startPause(visits)
	}
	l.setIdle()
}

// startPause notes that nobody holds or waits from now on. l.mu is held.
func (l *lock) startPause(visits uint64) {
	l.left, l.visits, l.idled = time.Now(), visits, make(map[string]bool)
}

// nextIdle is that hook, nil if there is none. Of two with one time it is the first.
func (l *lock) nextIdle() (next *Hook) {
	if len(l.claims) == 0 {
		return nil
	}
	for _, h := range l.inForce.Load().hooks[onIdle] {
		if !l.idled[h.key] && (next == nil || h.IdleFor < next.IdleFor) {
			next = h
		}
	}
	return next
}

// noteIdle starts the clock anew if everybody has gone. Nobody stops it: if it runs out
// while somebody is there, it does nothing.
func (l *lock) noteIdle() {
	if len(l.inForce.Load().hooks[onIdle]) == 0 {
		return
	}
	visits, quiet := l.queue.Quiet()
	if !quiet {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.startPause(visits)
	l.setIdle()
}

// idleNow runs the next idle hook if it still is its time. The hook holds the whole
// queue while it runs, so that nobody meets a service that is being stopped.
func (l *lock) idleNow() {
	if !l.enter() {
		return
	}
	defer l.exit()
	p := new(place)
	if !l.queue.Seize(p) {
		return
	}
	// Somebody may have been here of whom noteIdle has not heard yet.
	visited := func() bool { visits, _ := l.queue.Quiet(); return visits != l.visits }
	l.mu.Lock()
	h := l.nextIdle()
	if h == nil || visited() || time.Since(l.left) < time.Duration(h.IdleFor) {
		h = nil
	} else {
		l.idled[h.key] = true
	}
	l.mu.Unlock()
	if h != nil {
		l.happened(Event{Event: eventIdle, Moment: onIdle, Reason: "for " + time.Duration(h.IdleFor).String()})
		if due, _ := l.schedule.due(h, time.Now()); due {
			_ = l.runHook(h, Moment{On: onIdle, Lock: l.name()}, p)
		}
	}
	woken, _ := l.queue.Include(p, time.Now())
	wakeAll(woken)
	l.mu.Lock()
	again := visited()
	if !again {
		l.setIdle()
	}
	l.mu.Unlock()
	if again {
		l.noteIdle() // who has come and gone meanwhile could not
	}
}
