package lock

import (
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Publish records e for the status page and emits it to subscribers. It does not wait for them,
// and may be called with any mutex held except the record's. Activated and released are not
// recorded: there is one of each per connection.
//
// Before all apps of the config have started, the events app still takes subscriptions without a
// mutex, so it must not be read. A connection may come that early.
func (l *Lock) Publish(e status.Event) {
	e.Time = time.Now()
	e.Error = text.FirstLine(e.Error)
	if e.Event != status.EventActivated && e.Event != status.EventReleased {
		l.record.KeepEvent(e)
	}
	if c := l.current.Load(); c != nil && c.hasStarted() && c.events.ShouldEmit(status.EventPrefix+e.Event) {
		l.emitter.add(l, c, e)
	}
}

// emitter hands a lock's events to Caddy's events app, one after the other, in a
// goroutine that runs only while there are events. No connection waits for their handlers. (A
// hook that must wait for them has the step emit.)
type emitter struct {
	mu      sync.Mutex
	pending []pendingEvent
	running bool
	full    bool // the last one was dropped
}

type pendingEvent struct {
	config *Config
	event  status.Event
}

// mostPending is how many events wait for slow handlers; more are dropped, and counted.
const mostPending = 1000

func (m *emitter) add(l *Lock, c *Config, e status.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if full := len(m.pending) >= mostPending; full {
		if l.record.EventsDropped.Inc(); !m.full {
			// Not here: mutexes are held, and a log may stand still.
			go c.logger.Warn("events dropped, their handlers are too slow", zap.String("lock", l.Name()), zap.String("event", e.Event))
		}
		m.full = true
		return
	}
	m.full = false
	m.pending = append(m.pending, pendingEvent{c, e})
	if !m.running {
		m.running = true
		go m.run(l)
	}
}

func (m *emitter) run(l *Lock) {
	for {
		m.mu.Lock()
		if len(m.pending) == 0 {
			m.running = false
			m.mu.Unlock()
			return
		}
		next := m.pending[0]
		m.pending = m.pending[1:]
		m.mu.Unlock()
		next.config.emit(l, next.event)
	}
}

// idle reports whether all events have been handled.
func (m *emitter) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.running
}

// emit waits for the event's handlers.
func (c *Config) emit(l *Lock, e status.Event) {
	defer func() {
		if r := recover(); r != nil {
			c.logger.Error("event handler panicked", zap.String("event", e.Event), zap.Error(fmt.Errorf("%v\n%s", r, debug.Stack())))
		}
	}()
	// The config's context names the origin. But it is done after a reload, and the lock's context is
	// done before its last events. So the handlers get one that never ends.
	origin := c.ctx
	origin.Context = context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	c.events.Emit(origin, status.EventPrefix+e.Event, eventData(&e, l.Name()))
}

// eventData is what the handlers of an event get: strings only. What does not apply is empty or 0.
func eventData(e *status.Event, lock string) map[string]any {
	seconds := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	return map[string]any{
		"name":           lock,
		"slot":           strconv.Itoa(e.Slot),
		"worker":         e.Worker,
		"connection":     strconv.FormatUint(e.Connection, 10),
		"client":         e.Client,
		"moment":         e.Moment,
		"reason":         e.Reason,
		"error":          e.Error,
		"pid":            strconv.Itoa(e.PID),
		"bytes":          strconv.FormatInt(e.Bytes, 10),
		"waited_seconds": seconds(e.WaitedSeconds),
		"held_seconds":   seconds(e.HeldSeconds),
	}
}

// CountUnreachable counts that a slot's worker could not be reached.
func (l *Lock) CountUnreachable(slot int) {
	l.record.WorkerFailures.WithLabelValues(strconv.Itoa(slot)).Inc()
}

// PublishProcess counts and publishes an event of a slot's process.
func (l *Lock) PublishProcess(e status.Event) {
	slot := strconv.Itoa(e.Slot)
	switch e.Event {
	case status.EventRestarted:
		l.record.ServiceRestarts.WithLabelValues(slot, e.Reason).Inc()
	case status.EventFailed:
		l.record.ServiceFailures.WithLabelValues(slot).Inc()
	}
	l.Publish(e)
}
