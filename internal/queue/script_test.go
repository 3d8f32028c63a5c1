package queue

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

// script plays a queue step by step. Waiters have names, each step takes a second, and the
// invariants are checked after each step. A name that begins with a capital letter has a client:
// Ax and Ay are both of client A.
type script struct {
	t       *testing.T
	q       *Queue
	now     time.Time
	waiters map[string]*Waiter
}

func newScript(t *testing.T, limit, maxWaiting int) *script {
	return newBoundScript(t, Bounds{Limit: limit, MaxWaiting: maxWaiting})
}

func newBoundScript(t *testing.T, b Bounds) *script {
	return &script{t, New(b), time.Unix(0, 0), make(map[string]*Waiter)}
}

// tick ends a step.
func (s *script) tick() {
	s.t.Helper()
	s.now = s.now.Add(time.Second)
	checkInvariants(s.t, s.q)
}

func (s *script) waiter(name string) *Waiter {
	if s.waiters[name] == nil {
		p := &Waiter{Owner: name}
		if first := name[0]; first >= 'A' && first <= 'Z' {
			p.Client = ClientKey(first)
		}
		s.waiters[name] = p
	}
	return s.waiters[name]
}

// expect compares what a step returned, put in words, with what it should have.
func (s *script) expect(step, want string, found ...*Waiter) {
	s.t.Helper()
	var names []string
	for _, p := range found {
		if p != nil {
			names = append(names, p.Owner.(string))
		}
	}
	if got := strings.Join(names, " "); got != want {
		s.t.Fatalf("%s: found %q to be woken, expected %q", step, got, want)
	}
	s.tick()
}

// joins lets several join, which all wait or hold or are refused alike: want is "waits",
// an error, or the first one's slot.
func (s *script) joins(names, want string) {
	s.t.Helper()
	for _, name := range strings.Fields(names) {
		holds, err := s.q.Join(s.waiter(name), s.now)
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

// joinsAs is joins with a priority.
func (s *script) joinsAs(priority int, names, want string) {
	s.t.Helper()
	for _, name := range strings.Fields(names) {
		s.waiter(name).Priority = priority
	}
	s.joins(names, want)
}

func (s *script) slot(name string) int {
	return s.q.Load(s.waiter(name)).Slot
}

func (s *script) release(name, woken string) {
	s.t.Helper()
	s.expect("release "+name, woken, s.q.Release(s.waiter(name), s.now))
}

func (s *script) requeue(name, woken string) {
	s.t.Helper()
	s.expect("requeue "+name, woken, s.q.Requeue(s.waiter(name), s.now, 0))
}

func (s *script) out(slot int, vacant bool) {
	s.t.Helper()
	if got := s.q.Out(slot); got != vacant {
		s.t.Fatalf("out %d: found vacant %t, expected %t", slot, got, vacant)
	}
	s.tick()
}

func (s *script) in(slot int, woken string) {
	s.t.Helper()
	s.expect(fmt.Sprint("in ", slot), woken, s.q.In(slot, s.now))
}

func (s *script) leave(name string, want bool) {
	s.t.Helper()
	if got := s.q.Leave(s.waiter(name)); got != want {
		s.t.Fatalf("leave %s: found %t, expected %t", name, got, want)
	}
	s.tick()
}

func (s *script) beginExclusive(name, woken string) {
	s.t.Helper()
	s.expect("begin exclusive "+name, woken, s.q.BeginExclusive(s.waiter(name), false))
}

// beginAtService is beginExclusive for a waiter whose connection is still at the service.
func (s *script) beginAtService(name, woken string) {
	s.t.Helper()
	s.expect("begin exclusive at service "+name, woken, s.q.BeginExclusive(s.waiter(name), true))
}

func (s *script) endExclusive(name, woken string) {
	s.t.Helper()
	places, ok := s.q.EndExclusive(s.waiter(name), s.now)
	if !ok {
		s.t.Fatalf("end exclusive %s: found false, expected true", name)
	}
	s.expect("end exclusive "+name, woken, places...)
}

func (s *script) tryExclusive(name string, want bool) {
	s.t.Helper()
	if got := s.q.TryExclusive(s.waiter(name)); got != want {
		s.t.Fatalf("try exclusive %s: found %t, expected %t", name, got, want)
	}
	s.tick()
}

func (s *script) resize(limit, maxWaiting int, woken string) {
	s.t.Helper()
	s.set(Bounds{Limit: limit, MaxWaiting: maxWaiting}, woken)
}

func (s *script) set(b Bounds, woken string) {
	s.t.Helper()
	s.expect(fmt.Sprintf("set %+v", b), woken, s.q.Set(b, s.now)...)
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

// exclusive names the waiter that has exclusive access, "" for none.
func (s *script) exclusive(want string) {
	s.t.Helper()
	got := ""
	for name, p := range s.waiters {
		if s.q.IsExclusive(p) {
			got += name
		}
	}
	if got != want {
		s.t.Fatalf("found %q to have exclusive access, expected %q", got, want)
	}
}

// state compares holders ("b1 a2": b in slot 1, a in slot 2) and the line ("c d").
func (s *script) state(holders, line string) {
	s.t.Helper()
	_, h, w := s.q.Snapshot(unlimitedView)
	var held, waiting []string
	for _, p := range h {
		held = append(held, fmt.Sprint(p.Owner, p.Slot))
	}
	for _, p := range w {
		waiting = append(waiting, fmt.Sprint(p.Owner))
	}
	if got := strings.Join(held, " "); got != holders {
		s.t.Fatalf("found holders %q, expected %q", got, holders)
	}
	if got := strings.Join(waiting, " "); got != line {
		s.t.Fatalf("found line %q, expected %q", got, line)
	}
}

// unlimitedView is how many waiters a Snapshot shows: all.
const unlimitedView = math.MaxInt

// shown is what a waiter shows, without what is the queue's own.
func shown(p Waiter) Waiter {
	p.ID, p.from, p.prev, p.next, p.Expelled = 0, nil, nil, nil, false
	return p
}
