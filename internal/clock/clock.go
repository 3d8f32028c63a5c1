// Package clock has helpers for time: waits that can end early, times that stay right when the wall
// clock is set, and a limit on log lines for each interval.
package clock

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// Sleep waits for d, not at all if d is 0 or less. It returns false if ctx is done by then.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		Wait(ctx.Done(), d)
	}
	return ctx.Err() == nil
}

// Retry calls try until it returns nil or ctx is done. The pauses in between double from least to most.
// Retry returns the last error of a call that was not cut short, if there is one.
func Retry(ctx context.Context, least, most time.Duration, try func() error) (last error) {
	for pause := least; ; pause = min(2*pause, most) {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !Sleep(ctx, pause) {
			return last
		}
	}
}

// Until waits until done returns true, but no longer than until end. It calls done every 10ms.
func Until(end time.Time, done func() bool) {
	for !done() && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond)
	}
}

// Wait waits until done is closed. It returns false if d is over before.
func Wait(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// IsOver reports whether c is closed.
func IsOver(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Wall returns t by the wall clock of now. If the clock was set after t, by hand or by NTP, t moves
// with it, so that now - t is still the time that has passed. If t or now has no monotonic reading,
// Wall returns t.
func Wall(t, now time.Time) time.Time {
	ago := now.Sub(t) // by the monotonic clock
	if off := now.Round(0).Sub(t.Round(0)) - ago; off.Abs() < time.Second {
		return t // unchanged to the nanosecond: a status with it must stay equal if nothing happens
	}
	return now.Add(-ago).Round(time.Second)
}

// Limit limits the log lines in each interval, so that the log does not become the bottleneck in a
// flood. It reports the number of dropped lines. (The sampler of zap cannot: it has a callback for
// each dropped line only.)
type Limit struct {
	Most int               // lines in an interval; 0: none
	Per  time.Duration     // the interval; 0: a second
	Tell func(dropped int) // called at the end of an interval in which lines were dropped

	mu      sync.Mutex
	since   time.Time // the start of the interval
	lines   int       // in the interval, written or dropped
	dropped int       // not reported yet
}

// Allow reports whether one more line may be written.
func (l *Limit) Allow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, per := time.Now(), cmp.Or(l.Per, time.Second)
	if now.Sub(l.since) >= per {
		l.since, l.lines = now, 0
	}
	if l.lines++; l.lines <= l.Most {
		return true
	}
	if l.dropped++; l.dropped == 1 {
		time.AfterFunc(l.since.Add(per).Sub(now), l.Flush)
	}
	return false
}

// Flush reports at once how many lines were dropped since the last report, if there are any.
func (l *Limit) Flush() {
	l.mu.Lock()
	n := l.dropped
	l.dropped = 0
	l.mu.Unlock()
	if n > 0 {
		l.Tell(n)
	}
}
