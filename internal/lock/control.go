package lock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The verbs of the admin API: what an operator can do to a lock.

var (
	ErrUnknownConnection = errors.New("no such connection holds or waits")
	ErrResumed           = errors.New("the lock was resumed before the last holder was gone")
	ErrShutDown          = queue.ErrClosed
	ErrHolders           = errors.New("there are still other holders")
)

// pauses holds the pause of a lock.
type pauses struct {
	mu    sync.Mutex
	now   *status.Pause // a new value for each call of Pause; nil: the lock is not paused
	timer *time.Timer   // ends it; nil: only Resume does
	ended chan struct{} // closed when the lock is resumed
}

// status returns the pause as operators see it, nil if there is none.
func (p *pauses) status() *status.Pause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// stop stops the timer. The mutex is held.
func (p *pauses) stop() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// Pause stops admitting connections, for d if that is more than 0. Holders stay, waiters
// keep their places. Of several pauses the last one says how long.
func (l *Lock) Pause(d time.Duration) (ended <-chan struct{}) {
	p, next := &l.pauses, &status.Pause{Since: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		p.ended = make(chan struct{})
	} else {
		next.Since = p.now.Since
	}
	p.stop()
	reason := ""
	if d > 0 {
		until := time.Now().Add(d)
		next.Until = &until
		p.timer = time.AfterFunc(d, func() { l.endPause(next) })
		reason = "for " + d.String()
	}
	p.now = next
	l.queue.Pause()
	l.Publish(status.Event{Event: status.EventPaused, Reason: reason})
	return p.ended
}

// Resume ends a pause, however often it was asked for.
func (l *Lock) Resume() { l.endPause(nil) }

// endPause ends the pause, or with only, that pause and no later one: its time is over.
func (l *Lock) endPause(only *status.Pause) {
	p := &l.pauses
	p.mu.Lock()
	if p.now == nil || only != nil && p.now != only {
		p.mu.Unlock()
		return
	}
	p.stop()
	close(p.ended)
	p.now = nil
	woken := l.queue.Resume(time.Now())
	p.mu.Unlock()
	l.idle.again(l.visits())
	grant(woken...)
	l.Publish(status.Event{Event: status.EventResumed})
}

// Drain pauses the lock and waits until the last holder is gone, or for ctx.
func (l *Lock) Drain(ctx context.Context, d time.Duration) error {
	resumed := l.Pause(d)
	vacant := l.queue.Vacant()
	select {
	case <-vacant:
		return nil
	case <-resumed:
		return ErrResumed
	case <-ctx.Done():
		return ErrHolders
	case <-l.ctx.Done(): // there may be holders that never end
		return ErrShutDown
	}
}

// Kick ends a connection, whether it holds a slot or waits.
func (l *Lock) Kick(id uint64) error {
	p, waited := l.queue.Expel(id)
	if p == nil {
		return ErrUnknownConnection
	}
	w := p.Owner.(*Waiter)
	switch {
	case waited:
		l.noteIdle()
		l.Publish(status.Event{Event: status.EventKicked, Connection: id, Client: w.conn.Address})
	case w.state() == status.StateEnding:
		return ErrUnknownConnection // its client is cut already
	default:
		w.kick(l.queue.Load(p).Slot, "")
	}
	w.turnedAway() // a holder may be going back in line, or waiting for exclusive access
	return nil
}

// Moments returns the moments for which RunNow finds hooks, sorted.
func (l *Lock) Moments() []string { return slices.Sorted(maps.Keys(l.current.Load().hooks)) }

// HasSlot reports whether the lock has a slot with this number.
func (l *Lock) HasSlot(slot int) bool { return l.pool.HasSlot(slot) }

// exclusiveCaller asks for exclusive access to a lock without being a connection.
type exclusiveCaller chan struct{}

func (c exclusiveCaller) granted() {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (c exclusiveCaller) turnedAway() { c.granted() }

// RunNow runs a moment's hooks, due or not, when all holders are gone. It admits no connection
// meanwhile. With workers it runs the hooks for each worker, or only for the slot's worker. It
// stops at the first hook that fails, and returns how many have run.
func (l *Lock) RunNow(ctx context.Context, on string, slot int) (ran int, err error) {
	caller := make(exclusiveCaller, 1)
	p := &queue.Waiter{Owner: caller}
	grant(l.queue.BeginExclusive(p, false))
	defer l.letGo(p)
	for !l.queue.IsExclusive(p) {
		select {
		case <-caller:
		case <-ctx.Done():
			return 0, ErrHolders
		case <-l.ctx.Done():
			return 0, ErrShutDown
		}
	}
	hooks := l.current.Load().hooks[on] // there may have been a reload
	for _, m := range l.momentsNow(on, slot) {
		for _, h := range hooks {
			l.schedule.Book(h, time.Now())
			ran++
			if err := l.runHook(h, m, p); err != nil {
				return ran, fmt.Errorf("%s hook: %w", on, err)
			}
		}
	}
	if on == hook.Activate {
		l.failings.passed()
	}
	return ran, nil
}

// letGo ends the exclusive access of RunNow.
func (l *Lock) letGo(p *queue.Waiter) {
	woken, _ := l.queue.EndExclusive(p, time.Now())
	l.idle.again(l.visits())
	grant(woken...)
}

// momentsNow returns a moment for each slot for which RunNow runs hooks.
func (l *Lock) momentsNow(on string, slot int) (moments []hook.Moment) {
	if workers := l.pool.Named(); workers != nil {
		for _, w := range workers {
			if slot == 0 || slot == w.Slot {
				moments = append(moments, hook.Moment{On: on, Lock: l.Name(), Slot: w.Slot, Worker: w.Address})
			}
		}
		return moments
	}
	if l.pool.Slots() == 1 {
		slot = 1
	}
	return []hook.Moment{{On: on, Lock: l.Name(), Slot: slot}}
}

// A restart that an operator requests waits until the slot's holder is gone. But if the service
// hangs and the client has closed its side, nothing would ever end that connection. So such a
// holder is cut.

const (
	// restartLull is how long no byte must have moved, in either direction, before the service
	// counts as hanging.
	restartLull = 5 * time.Second

	// restartCheck is the time between two checks of the holder.
	restartCheck = 250 * time.Millisecond
)

// Restart has the slot's process restarted, or with slot 0 all of them, each between two
// clients of its slot. It returns how many.
func (l *Lock) Restart(slot int) (n int) {
	for _, w := range l.pool.All() {
		if (slot == 0 || slot == w.Slot) && w.Running() != nil {
			w.Restart(status.RestartRequest)
			l.hasten(w)
			n++
		}
	}
	return n
}

// hasten makes sure that a requested restart takes effect. Each worker has at most one goroutine
// for that.
func (l *Lock) hasten(w *pool.Worker) {
	if !w.RestartDue() || !w.Hastened.CompareAndSwap(false, true) {
		return
	}
	go func() {
		var held lull
		for w.RestartDue() && clock.Sleep(l.ctx, restartCheck) {
			held.check(l, w.Slot)
		}
		w.Hastened.Store(false)
		if l.ctx.Err() == nil {
			l.hasten(w) // if it was asked for again just then
		}
	}()
}

// lull measures how long no byte has moved for a holder whose client has closed its side.
type lull struct {
	holder *Waiter
	moved  int64
	since  time.Time
}

// check looks at the slot's holder, and cuts it when the lull has lasted too long.
func (l *lull) check(lock *Lock, slot int) {
	p := lock.queue.Holder(slot)
	if p == nil {
		return
	}
	h := p.Owner.(*Waiter)
	if h.state() != status.StateConnected || h.kicked.Load() || !h.conn.InputOver() {
		l.holder = nil
		return
	}
	now := time.Now()
	if moved := h.conn.Moved(); h != l.holder || moved != l.moved {
		l.holder, l.moved, l.since = h, moved, now
		return
	}
	if now.Sub(l.since) >= restartLull {
		h.kick(slot, "restart")
	}
}
