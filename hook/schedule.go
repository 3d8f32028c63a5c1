package hook

import (
	"maps"
	"sync"
	"time"
)

// Schedule keeps what hooks must remember about earlier runs. It belongs to the lock, so that a
// reload does not lose it. It finds a hook by its key: an edited hook starts anew. The zero value
// is ready for use.
type Schedule struct {
	mu   sync.Mutex
	past map[string]*Past // by key
}

// Past is the record of one hook. A hook that runs every time needs none.
type Past struct {
	times int       // how many moments were counted since the last run
	runs  int       // how often the hook has run
	last  time.Time // the last run
	owed  bool      // the last run failed
}

// Tally is one counted moment of a hook.
type Tally struct {
	past *Past
	runs int // how often the hook had run by then
}

// of returns the past of h. The mutex is held.
func (s *Schedule) of(h *Hook) *Past {
	p := s.past[h.key]
	if p == nil {
		if s.past == nil {
			s.past = make(map[string]*Past)
		}
		p = new(Past)
		s.past[h.key] = p
	}
	return p
}

// Due counts the moment for h and reports whether h must run now. TakeBack undoes the count.
func (s *Schedule) Due(h *Hook, now time.Time) (bool, Tally) {
	if h.Every == (Every{}) {
		return true, Tally{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.of(h)
	every := h.Every
	due := p.owed || p.runs == 0 ||
		every.Count > 0 && p.times >= every.Count || every.Interval > 0 && now.Sub(p.last) >= every.Interval
	if due {
		// Book the run before it starts: the holder of another slot must not start a second run
		// meanwhile.
		p.run(now)
	}
	p.times++
	return due, Tally{p, p.runs}
}

// TakeBack undoes the count of a moment. If the hook has run since, there is nothing to undo: that
// run has set the count to 0.
func (s *Schedule) TakeBack(t Tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.past.runs == t.runs {
		t.past.times--
	}
}

// Overdue reports whether h must run now although the moment does not count.
func (s *Schedule) Overdue(h *Hook, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.past[h.key]
	if p == nil || !p.owed {
		return false
	}
	p.run(now)
	return true
}

// Book records that h runs now, whether it was due or not.
func (s *Schedule) Book(h *Hook, now time.Time) {
	if h.Every == (Every{}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(h).run(now)
}

// run records that the hook runs. The count starts anew.
func (p *Past) run(now time.Time) {
	p.runs++
	p.times, p.last, p.owed = 0, now, false
}

// Owe makes h due next time, whatever its conditions say.
func (s *Schedule) Owe(h *Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.past[h.key]; p != nil {
		p.owed = true
	}
}

// Keep forgets all hooks except those with these keys.
func (s *Schedule) Keep(keys map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.past, func(key string, _ *Past) bool { return !keys[key] })
}

// Snapshot returns the records of all hooks, by key.
func (s *Schedule) Snapshot() map[string]Past {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Past)
	for key, p := range s.past {
		all[key] = *p
	}
	return all
}
