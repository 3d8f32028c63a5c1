package tcplock

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// script plays a queue step by step. Places have names, each step takes a second, and
// after each the invariants are looked at.
type script struct {
	t      *testing.T
	q      *queue
	now    time.Time
	places map[string]*place
}

func newScript(t *testing.T, limit, maxWaiting int) *script {
	return &script{t, newQueue(limit, maxWaiting), time.Unix(0, 0), make(map[string]*place)}
}

// tick ends a step.
func (s *script) tick() {
	s.t.Helper()
	s.now = s.now.Add(time.Second)
	checkInvariants(s.t, s.q)
}

func (s *script) place(name string) *place {
	if s.places[name] == nil {
		s.places[name] = &place{owner: name}
	}
	return s.places[name]
}

// expect compares what a step returned, put in words, with what it should have.
func (s *script) expect(step, want string, found ...*place) {
	s.t.Helper()
	var names []string
	for _, p := range found {
		if p != nil {
			names = append(names, p.owner.(string))
		}
	}
	if got := strings.Join(names, " "); got != want {
		s.t.Fatalf("%s: found %q to be woken, expected %q", step, got, want)
	}
	s.tick()
}

// joins lets several join, who all wait or hold or are refused alike: want is "waits",
// an error, or the first one's slot.
func (s *script) joins(names, want string) {
	s.t.Helper()
	for _, name := range strings.Fields(names) {
		holds, err := s.q.Join(s.place(name), s.now)
		got := "waits"
		switch {
		case holds:
			got = strconv.Itoa(s.slot(name))
		case err != nil:
			got = err.Error()
		}
		if got != want {
			s.t.Fatalf("join %s: found %q, expected %q", name, got, want)
		}
		s.tick()
		if slot, err := strconv.Atoi(want); err == nil {
			want = strconv.Itoa(slot + 1)
		}
	}
}

func (s *script) slot(name string) int {
	return s.q.Look(s.place(name)).slot
}

func (s *script) release(name, woken string) {
	s.t.Helper()
	s.expect("release "+name, woken, s.q.Release(s.place(name), s.now))
}

func (s *script) leave(name string, want bool) {
	s.t.Helper()
	if got := s.q.Leave(s.place(name)); got != want {
		s.t.Fatalf("leave %s: found %t, expected %t", name, got, want)
	}
	s.tick()
}

func (s *script) seclude(name, woken string) {
	s.t.Helper()
	s.expect("seclude "+name, woken, s.q.Seclude(s.place(name)))
}

func (s *script) include(name, woken string) {
	s.t.Helper()
	places, ok := s.q.Include(s.place(name), s.now)
	if !ok {
		s.t.Fatalf("include %s: found false, expected true", name)
	}
	s.expect("include "+name, woken, places...)
}

func (s *script) seize(name string, want bool) {
	s.t.Helper()
	if got := s.q.Seize(s.place(name), s.now); got != want {
		s.t.Fatalf("seize %s: found %t, expected %t", name, got, want)
	}
	s.tick()
}

func (s *script) resize(limit, maxWaiting int, woken string) {
	s.t.Helper()
	s.expect(fmt.Sprintf("resize %d %d", limit, maxWaiting), woken, s.q.Resize(limit, maxWaiting, s.now)...)
}

func (s *script) pause() {
	s.t.Helper()
	s.q.Pause()
	s.tick()
}

func (s *script) resume(woken string) {
	s.t.Helper()
	s.expect("resume", woken, s.q.Resume(s.now)...)
}

func (s *script) close(turnedAway string) {
	s.t.Helper()
	s.expect("close", turnedAway, s.q.Close()...)
}

// alone names who is alone, "" for nobody.
func (s *script) alone(want string) {
	s.t.Helper()
	got := ""
	for name, p := range s.places {
		if s.q.Alone(p) {
			got += name
		}
	}
	if got != want {
		s.t.Fatalf("found %q to be alone, expected %q", got, want)
	}
}

// state compares holders ("b1 a2": b in slot 1, a in slot 2) and the line ("c d").
func (s *script) state(holders, line string) {
	s.t.Helper()
	_, h, w := s.q.Snapshot()
	var held, waiting []string
	for _, p := range h {
		held = append(held, fmt.Sprint(p.owner, p.slot))
	}
	for _, p := range w {
		waiting = append(waiting, fmt.Sprint(p.owner))
	}
	if got := strings.Join(held, " "); got != holders {
		s.t.Fatalf("found holders %q, expected %q", got, holders)
	}
	if got := strings.Join(waiting, " "); got != line {
		s.t.Fatalf("found line %q, expected %q", got, line)
	}
}

// checkInvariants holds a queue against the head comment of queue.go, and its lists
// against themselves.
func checkInvariants(t interface {
	Helper()
	Fatalf(string, ...any)
}, q *queue) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	held, free := 0, 0
	for i, s := range q.slots {
		if s.holder != nil {
			held++
			if s.holder.slot != i || s.holder.state != placeHolding && s.holder.state != placeSecluding {
				t.Fatalf("found in slot %d a place with slot %d and state %d", i, s.holder.slot, s.holder.state)
			}
		} else if i >= 1 && i <= q.limit {
			free++
		}
	}
	if held != q.held {
		t.Fatalf("found held %d, expected %d as many as slots with a holder", q.held, held)
	}
	last := 0
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		if free--; free < 0 || i > q.limit || q.slots[i].holder != nil {
			t.Fatalf("found slot %d of %d in the free list, expected it neither held nor twice", i, q.limit)
		}
		last = i
	}
	if free != 0 || last != q.lastFree {
		t.Fatalf("found %d free slots not in the list, and its end at %d, expected none and %d", free, q.lastFree, last)
	}
	waiting := 0
	for p := &q.line; p.next != &q.line; p = p.next {
		if waiting++; p.next.prev != p || p.next.state != placeWaiting || waiting > q.waiting {
			t.Fatalf("found the line broken after %d of %d", waiting, q.waiting)
		}
	}
	if waiting != q.waiting {
		t.Fatalf("found waiting %d, expected %d as many as stand in line", q.waiting, waiting)
	}
	if waiting > 0 && held < q.limit && !q.paused && len(q.seclusion) == 0 {
		t.Fatalf("found %d waiting beside a slot that may be granted", waiting)
	}
}
