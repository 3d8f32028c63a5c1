package tcplock

import (
	"cmp"
	"sync"
	"time"
)

// logLimit lets so many lines into the log in a time, so that a flood does not make the
// log the bottleneck, and has told how many it has kept out.
type logLimit struct {
	most int               // lines in that time
	per  time.Duration     // that time; 0: a second
	tell func(dropped int) // at the end of each such time in which some were dropped

	mu      sync.Mutex
	since   time.Time // the beginning of the time that is counted
	lines   int       // in that time
	dropped int       // and not told yet
}

// allow reports whether one more line may be written.
func (l *logLimit) allow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, per := time.Now(), cmp.Or(l.per, time.Second)
	if now.Sub(l.since) >= per {
		l.since, l.lines = now, 0
	}
	if l.lines++; l.lines <= l.most {
		return true
	}
	if l.dropped++; l.dropped == 1 {
		time.AfterFunc(l.since.Add(per).Sub(now), l.flush)
	}
	return false
}

// flush tells now what has been dropped.
func (l *logLimit) flush() {
	l.mu.Lock()
	n := l.dropped
	l.dropped = 0
	l.mu.Unlock()
	if n > 0 {
		l.tell(n)
	}
}
