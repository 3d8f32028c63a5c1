// Package clock has helpers for time: waits that can end early, times that stay right when the wall
// clock is set, and a limit on log lines for each interval.
package clock

import (
	"context"
	"time"
)

// Sleep waits for d, not at all if d is 0 or less. It returns false if ctx is done before.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
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
