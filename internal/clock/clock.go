// Package clock waits, and knows the time: waits that something ends early, times on a wall clock
// that was set, and a bound on how much happens in a time.
package clock

import (
	"context"
	"time"
)

// Sleep waits for d. It returns false if ctx was done before.
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

// Until waits until done is true, but not after end. It looks every 10ms.
func Until(end time.Time, done func() bool) {
	for !done() && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond)
	}
}

// Wait waits until done is closed. It returns false if d was over before.
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

// Wall returns t as the wall clock would show it now. If the clock was set after t, by hand
// or by NTP, t moves with it, so that now - t stays how long ago t was.
func Wall(t, now time.Time) time.Time {
	ago := now.Sub(t) // by the monotonic clock
	if off := now.Round(0).Sub(t.Round(0)) - ago; off.Abs() < time.Second {
		return t // to the nanosecond: a status that does not change must stay the same
	}
	return now.Add(-ago).Round(time.Second)
}
