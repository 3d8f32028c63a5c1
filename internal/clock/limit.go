package clock

import (
	"cmp"
	"sync"
	"time"
)

// Limit bounds how many lines go to the log in each interval, so that the log does not become
// the bottleneck in a flood. It reports how many lines it has dropped. (The sampler of zap
// reports each dropped line when it drops it, and never their number.)
type Limit struct {
	Most int               // lines in an interval
	Per  time.Duration     // the interval; 0: a second
	Tell func(dropped int) // called at the end of an interval in which lines were dropped

	mu      sync.Mutex
	since   time.Time // the start of the interval
	lines   int       // of the interval, written or not
	dropped int       // and not reported yet
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

// Flush reports now how many lines were dropped.
func (l *Limit) Flush() {
	l.mu.Lock()
	n := l.dropped
	l.dropped = 0
	l.mu.Unlock()
	if n > 0 {
		l.Tell(n)
	}
}
