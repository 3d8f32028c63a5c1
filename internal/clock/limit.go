package clock

import (
	"cmp"
	"sync"
	"time"
)

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
