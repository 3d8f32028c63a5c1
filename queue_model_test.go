package tcplock

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// person is somebody who uses a queue: the place in the real one, and what the model
// says it should look like.
type person struct {
	real place
	want place // without prev and next
}

// model is a queue as one would explain it to somebody: lists in order, and one rule,
// in admit, that is applied after every step.
type model struct {
	limit, maxWaiting int
	paused, closed    bool

	line      []*person   // by arrival
	holders   []*person   // by slot
	secluding []*person   // holders that want to be alone, by when they asked
	freeSince map[int]int // free slots, and the step at which each became one
	total     totals

	now time.Time
	all []*person
}

// admit grants slots for as long as there is a slot, somebody in line and no reason not
// to: to the first in line, the slot that has been free longest.
func (m *model) admit() (admitted []*person) {
	for len(m.line) > 0 && len(m.holders) < m.limit && !m.paused && !m.closed && len(m.secluding) == 0 {
		p := m.line[0]
		m.line = m.line[1:]
		longest := 0
		for slot := 1; slot <= m.limit; slot++ {
			since, free := m.freeSince[slot]
			if free && (longest == 0 || since < m.freeSince[longest]) {
				longest = slot
			}
		}
		delete(m.freeSince, longest)
		m.total.Granted++
		p.want.state, p.want.slot, p.want.number = placeHolding, longest, m.total.Granted
		p.want.waited = m.now.Sub(p.want.joined)
		m.holders = append(m.holders, p)
		slices.SortFunc(m.holders, func(a, b *person) int { return a.want.slot - b.want.slot })
		admitted = append(admitted, p)
	}
	return admitted
}

// alone is the one of those who want to be alone that has asked first, if all holders
// want to be alone.
func (m *model) alone() *person {
	if len(m.secluding) > 0 && len(m.secluding) == len(m.holders) {
		return m.secluding[0]
	}
	return nil
}

func (m *model) step() int {
	return int(m.now.Unix())
}

func (m *model) arrive() *person {
	p := &person{want: place{owner: len(m.all), joined: m.now}}
	p.real.owner = len(m.all)
	m.all = append(m.all, p)
	m.total.Joined++
	m.line = append(m.line, p)
	p.want.state, p.want.ahead = placeWaiting, len(m.line)-1
	return p
}

func (m *model) join() (p *person, err error) {
	p = m.arrive()
	m.admit()
	switch ahead := len(m.line) - 1; {
	case p.want.state == placeHolding:
		return p, nil
	case m.closed:
		err = errClosed
	case m.maxWaiting != unlimited && ahead >= m.maxWaiting:
		err = errFull
	default:
		return p, nil
	}
	m.line = m.line[:len(m.line)-1]
	p.want.state, p.want.ahead = placeGone, 0
	m.total.Refused++
	return p, err
}

func (m *model) leave(p *person) bool {
	i := slices.Index(m.line, p)
	if i < 0 {
		return false
	}
	m.line = slices.Delete(m.line, i, i+1)
	p.want.state = placeGone
	m.total.Left++
	return true
}

func (m *model) release(p *person) []*person {
	m.holders = without(m.holders, p)
	if p.want.slot <= m.limit {
		m.freeSince[p.want.slot] = m.step()
	}
	p.want.state, p.want.slot = placeGone, 0
	if alone := m.alone(); alone != nil {
		return []*person{alone}
	}
	return m.admit()
}

func (m *model) seclude(p *person) []*person {
	p.want.state = placeSecluding
	m.secluding = append(m.secluding, p)
	if alone := m.alone(); alone != nil {
		return []*person{alone}
	}
	return nil
}

func (m *model) include(p *person) ([]*person, bool) {
	if alone := m.alone(); alone != nil && alone != p {
		return nil, false
	}
	p.want.state = placeHolding
	m.secluding = without(m.secluding, p)
	return append(slices.Clone(m.secluding), m.admit()...), true
}

func (m *model) resize(limit, maxWaiting int) []*person {
	for slot := range max(limit, m.limit) {
		slot++
		switch taken := slices.ContainsFunc(m.holders, func(p *person) bool { return p.want.slot == slot }); {
		case slot > limit:
			delete(m.freeSince, slot)
		case slot > m.limit && !taken:
			m.freeSince[slot] = m.step()
		}
	}
	m.limit, m.maxWaiting = limit, maxWaiting
	return m.admit()
}

func (m *model) close() []*person {
	turnedAway := m.line
	m.closed, m.line = true, nil
	for _, p := range turnedAway {
		p.want.state = placeGone
		m.total.Refused++
	}
	return turnedAway
}

func without(people []*person, p *person) []*person {
	return slices.DeleteFunc(slices.Clone(people), func(other *person) bool { return other == p })
}

// play takes a schedule, two bytes for a step, plays it on a queue and on the model and
// compares them after each step. A failure comes with the steps that led to it.
func play(t rapid.TB, schedule []byte) {
	m := &model{now: time.Unix(0, 0), freeSince: make(map[int]int)}
	q := newQueue(0, unlimited)
	m.resize(0, unlimited)
	var steps []string
	var quiet <-chan struct{} // of the last call of Quiet
	wasQuiet := false         // since that call

	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(steps, "\n"))
	}
	woken := func(got []*place, want []*person) {
		t.Helper()
		if !slices.EqualFunc(got, want, func(g *place, w *person) bool { return g == &w.real }) {
			fail("found to be woken %v, expected %v", owners(got), owners(reals(want)))
		}
	}
	one := func(p *place) []*place {
		if p == nil {
			return nil
		}
		return []*place{p}
	}
	for ; len(schedule) >= 2; schedule = schedule[2:] {
		step, arg := moves[int(schedule[0])%len(moves)], int(schedule[1])
		note := func(format string, args ...any) { steps = append(steps, fmt.Sprintf(format, args...)) }
		m.now = m.now.Add(time.Second)
		switch step {
		case "join":
			p, wantErr := m.join()
			note("join %d", p.real.owner)
			holds, err := q.Join(&p.real, m.now)
			if want := p.want.state == placeHolding; holds != want || !errors.Is(err, wantErr) {
				fail("join: found %t, %v, expected %t, %v", holds, err, want, wantErr)
			}
		case "leave": // who stands in line, or anybody
			people := m.line
			if arg >= 128 {
				people = m.all
			}
			if p := pick(people, arg); p != nil {
				note("leave %d", p.real.owner)
				if got, want := q.Leave(&p.real), m.leave(p); got != want {
					fail("leave: found %t, expected %t", got, want)
				}
			}
		case "release":
			if p := pick(notIn(m.holders, m.secluding), arg); p != nil {
				note("release %d", p.real.owner)
				woken(one(q.Release(&p.real, m.now)), m.release(p))
			}
		case "seclude":
			if p := pick(notIn(m.holders, m.secluding), arg); p != nil {
				note("seclude %d", p.real.owner)
				woken(one(q.Seclude(&p.real)), m.seclude(p))
			}
		case "include":
			if p := pick(m.secluding, arg); p != nil {
				note("include %d", p.real.owner)
				got, gotOK := q.Include(&p.real, m.now)
				want, wantOK := m.include(p)
				if gotOK != wantOK {
					fail("include: found %t, expected %t", gotOK, wantOK)
				}
				woken(got, want)
			}
		case "seize":
			want := len(m.holders) == 0 && len(m.line) == 0 && m.limit > 0 && !m.paused && !m.closed
			p := &person{}
			if want {
				p = m.arrive()
				m.admit()
				m.total.Joined--
				m.total.Granted--
				p.want.number = 0 // nobody's connection
				m.seclude(p)
			}
			note("seize %v", p.real.owner)
			if got := q.Seize(&p.real, m.now); got != want {
				fail("seize: found %t, expected %t", got, want)
			}
		case "resize":
			limit, maxWaiting := arg%6, arg/6%8-1
			note("resize %d %d", limit, maxWaiting)
			woken(q.Resize(limit, maxWaiting, m.now), m.resize(limit, maxWaiting))
		case "pause":
			note("pause")
			q.Pause()
			m.paused = true
		case "resume":
			note("resume")
			m.paused = false
			woken(q.Resume(m.now), m.admit())
		case "close":
			if arg >= 240 { // seldom, since little happens afterwards
				note("close")
				woken(q.Close(), m.close())
			}
		case "quiet":
			note("quiet")
			quiet, wasQuiet = q.Quiet(), false
		}
		compare(fail, q, m)
		wasQuiet = wasQuiet || len(m.holders)+len(m.line) == 0
		select {
		case <-quiet:
			if !wasQuiet {
				fail("found the end of quiet while somebody was there all the time")
			}
		default:
			if quiet != nil && wasQuiet {
				fail("found no end of quiet although everybody had gone")
			}
		}
	}
	for _, p := range m.all {
		if got := q.Look(&p.real); !same(got, p) {
			fail("found in the end %+v, expected %+v", got, p.want)
		}
	}
}

// moves of a schedule. What drives the queue on comes more often than what stops it; the
// first does nothing, so that a schedule can be made smaller.
var moves = []string{
	"nothing", "join", "join", "join", "join", "join", "release", "release", "release", "release",
	"leave", "seclude", "include", "include", "resize", "pause", "resume", "resume", "seize", "seize", "quiet", "close",
}

// compare looks at everything there is to see of a queue and those who are in it.
func compare(fail func(string, ...any), q *queue, m *model) {
	checkInvariants(failer(fail), q)
	stats, holders, waiters := q.Snapshot()
	wantStats := queueStats{Slots: m.limit, Held: len(m.holders), Waiting: len(m.line), Paused: m.paused, Total: m.total}
	if len(m.line) > 0 {
		wantStats.Oldest = m.line[0].want.joined
	}
	if stats != wantStats || q.Stats() != wantStats {
		fail("found %+v, expected %+v", stats, wantStats)
	}
	if t := stats.Total; t.Joined != t.Refused+t.Left+t.Granted+uint64(stats.Waiting) {
		fail("found totals %+v with %d waiting, expected them to add up", t, stats.Waiting)
	}
	for _, part := range []struct {
		name string
		got  []place
		want []*person
	}{{"holders", holders, m.holders}, {"waiters", waiters, m.line}} {
		if !slices.EqualFunc(part.got, part.want, func(g place, w *person) bool { return same(g, w) }) {
			fail("found %s %+v, expected %v", part.name, part.got, owners(reals(part.want)))
		}
	}
	for _, p := range m.holders {
		if got, want := q.Alone(&p.real), p == m.alone(); got != want {
			fail("found %d alone %t, expected %t", p.real.owner, got, want)
		}
	}
}

type failer func(string, ...any)

func (failer) Helper()                          {}
func (f failer) Fatalf(format string, a ...any) { f(format, a...) }

func same(got place, p *person) bool {
	got.prev, got.next = nil, nil
	return got == p.want
}

func pick(people []*person, arg int) *person {
	if len(people) == 0 {
		return nil
	}
	return people[arg%len(people)]
}

func notIn(people, others []*person) []*person {
	return slices.DeleteFunc(slices.Clone(people), func(p *person) bool { return slices.Contains(others, p) })
}

func reals(people []*person) (places []*place) {
	for _, p := range people {
		places = append(places, &p.real)
	}
	return places
}

func owners(places []*place) (names []any) {
	for _, p := range places {
		names = append(names, p.owner)
	}
	return names
}

// The queue does what the model does, whatever the schedule: thousands at random, and a
// failure is made as short as it can be.
func TestQueueAgainstModel(t *testing.T) {
	for range 30 { // a hundred schedules each
		rapid.Check(t, func(t *rapid.T) {
			play(t, rapid.SliceOfN(rapid.Byte(), 100, 300).Draw(t, "schedule"))
		})
	}
}

// The same with schedules that the fuzzer makes up. Run it with -fuzzminimizetime 10x:
// by default it spends a minute on making each schedule that shows something new small.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(8) {
		schedule := make([]byte, 200)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(schedule)
		f.Add(schedule)
	}
	f.Fuzz(func(t *testing.T, schedule []byte) {
		play(t, schedule[:min(len(schedule), 1000)]) // more takes longer and shows no more
	})
}
