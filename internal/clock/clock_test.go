package clock

import (
	"testing"
	"time"
	"unsafe"
)

// setClock returns t as if the wall clock had been set by so many seconds before t was read. Only
// the seconds of the wall time change, and the monotonic time stays.
func setClock(t time.Time, seconds int64) time.Time {
	const secondsFrom = 30 // bits
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds << secondsFrom)
	return t
}

// When the wall clock is set, a time of the past keeps its age, and moves to the new clock.
func TestWallWhenTheClockIsSet(t *testing.T) {
	since := time.Now().Add(-90 * time.Second)
	if now := time.Now(); Wall(since, now) != since {
		t.Errorf("found %v, expected %v, to the nanosecond", Wall(since, now), since)
	}
	for _, set := range []int64{3600, -3600} {
		now := setClock(time.Now(), set)
		if got := now.Round(0).Sub(since.Round(0)).Round(time.Second); got != time.Duration(set+90)*time.Second {
			t.Fatalf("found the clock set by %s, expected %ds", got-90*time.Second, set)
		}
		if age := now.Round(0).Sub(Wall(since, now).Round(0)).Round(time.Second); age != 90*time.Second {
			t.Errorf("clock set by %ds: found an age of %s, expected 1m30s", set, age)
		}
	}
}
