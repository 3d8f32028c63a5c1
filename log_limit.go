package tcplock

import (
	"sync"
	"time"
)

// logLimit lets so many lines a second into the log, so that a flood does not make the
// log the bottleneck, and has told how many it has kept out.
type logLimit struct {
	most int               // lines a second
	tell func(dropped int) // at the end of each second in which some were dropped

	mu      sync.Mutex
	since   time.Time // the beginning of the second that is counted
	lines   int       // in that second
	dropped int       // and not told yet
}

// allow reports whether one more line may be written.
func (l *logLimit) allow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.since) >= time.Second {
		l.since, l.lines = now, 0
	}
	if l.lines++; l.lines <= l.most {
		return true
	}
	if l.dropped++; l.dropped == 1 {
		time.AfterFunc(l.since.Add(time.Second).Sub(now), l.flush)
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
