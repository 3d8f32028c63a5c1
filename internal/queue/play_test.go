package queue

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

// mostSlots is the number of slots with which a schedule deals.
const mostSlots = 6

// game is a schedule that is played on a queue and on the model.
type game struct {
	t     rapid.TB
	q     *Queue
	m     *model
	notes []string // the steps so far

	vacant    <-chan struct{} // of the last call of Vacant
	wasVacant bool            // since that call
}

// play takes a schedule, two bytes for a step, plays it and compares after each step. A
// failure comes with the steps that led to it.
func play(t rapid.TB, schedule []byte) {
	g := &game{t: t, q: New(Bounds{MaxWaiting: Unlimited}), m: newModel()}
	for ; len(schedule) >= 2; schedule = schedule[2:] {
		g.m.begin()
		moves[int(schedule[0])%len(moves)](g, int(schedule[1]))
		g.compare()
		g.checkVacant()
	}
	for _, p := range g.m.all {
		if got := g.q.Load(&p.real); !same(got, p) {
			g.fail("found in the end %+v, expected %+v", got, p.want)
		}
	}
}

// moves of a schedule. What drives the queue on comes more often than what stops it; the
// first does nothing, so that a schedule can be made smaller.
var moves = []func(g *game, arg int){
	(*game).nothing,
	(*game).join, (*game).join, (*game).join, (*game).join, (*game).join, (*game).join, (*game).join,
	(*game).release, (*game).release, (*game).release, (*game).release, (*game).release,
	(*game).leave, (*game).expel, (*game).requeue, (*game).requeue,
	(*game).beginExclusive, (*game).endExclusive, (*game).endExclusive, (*game).endExclusive, (*game).tryExclusive, (*game).tryExclusive, (*game).intrude,
	(*game).takeOut, (*game).putIn, (*game).putIn, (*game).takeAllOut, (*game).putAllIn, (*game).putAllIn,
	(*game).resize, (*game).share, (*game).age,
	(*game).pause, (*game).resume, (*game).resume, (*game).askVacant, (*game).close,
}

func (g *game) nothing(int) {}

func (g *game) join(arg int) {
	client, priority := ClientKey(arg%4), arg/4%4-1 // 0: no client
	arrival := uint64(0)
	if arg < 192 { // one of two that join in one instant may have arrived after the other
		arrival = uint64(g.m.steps ^ arg>>6&1)
	}
	p, wantErr := g.m.join(client, priority, arrival)
	g.note("join %v, client %d, priority %d, arrival %d", p.real.Owner, client, priority, arrival)
	holds, err := g.q.Join(&p.real, g.m.now)
	if want := p.want.State == Holding; holds != want || !errors.Is(err, wantErr) {
		g.fail("join: found %t, %v, expected %t, %v", holds, err, want, wantErr)
	}
}

// leave is for a waiter in line, or for any.
func (g *game) leave(arg int) {
	people := g.m.line
	if arg >= 192 {
		people = g.m.all
	}
	if p := pick(people, arg); p != nil {
		g.note("leave %v", p.real.Owner)
		g.expect("leave", g.q.Leave(&p.real), g.m.leave(p))
	}
}

// expel is for a waiter in line, or for any, by its ID.
func (g *game) expel(arg int) {
	people := g.m.line
	if arg >= 192 {
		people = g.m.all
	}
	p := pick(people, arg)
	if p == nil {
		return
	}
	g.note("expel %v", p.real.Owner)
	there := p.real.ID > 0 && (p.want.State == Waiting || p.want.Slot > 0)
	found, waited := g.q.Expel(p.real.ID)
	g.expect("expel finds", found == &p.real, there)
	g.expect("expel", waited, g.m.leave(p))
	g.expect("expelled", g.q.Load(&p.real).Expelled || !waited, true)
}

func (g *game) release(arg int) {
	if p := pick(notIn(g.m.holders, g.m.exclusives), arg); p != nil {
		g.note("release %v", p.real.Owner)
		g.woken(g.m.release(p), g.q.Release(&p.real, g.m.now))
	}
}

func (g *game) requeue(arg int) {
	if p := pick(notIn(g.m.holders, g.m.exclusives), arg); p != nil {
		g.note("requeue %v", p.real.Owner)
		woken := g.m.requeue(p)
		g.woken(woken, g.q.Requeue(&p.real, g.m.now, p.want.Apart))
	}
}

func (g *game) beginExclusive(arg int) {
	if p := pick(notIn(g.m.holders, g.m.exclusives), arg); p != nil {
		atService := arg >= 128
		g.note("begin exclusive %v, at service %t", p.real.Owner, atService)
		g.woken(g.m.beginExclusive(p, atService), g.q.BeginExclusive(&p.real, atService))
	}
}

func (g *game) endExclusive(arg int) {
	if p := pick(g.m.exclusives, arg); p != nil {
		g.note("end exclusive %v", p.real.Owner)
		got, gotOK := g.q.EndExclusive(&p.real, g.m.now)
		want, wantOK := g.m.endExclusive(p)
		g.expect("end exclusive", gotOK, wantOK)
		g.woken(want, got...)
	}
}

func (g *game) tryExclusive(int) {
	p := g.m.intruder()
	want := g.m.tryExclusive(p)
	g.note("try exclusive %v", p.real.Owner)
	g.expect("try exclusive", g.q.TryExclusive(&p.real), want)
	if !want {
		g.m.all = without(g.m.all, p)
	}
}

// intrude is beginExclusive for a waiter without a slot.
func (g *game) intrude(int) {
	p := g.m.intruder()
	g.note("intrude %v", p.real.Owner)
	g.woken(g.m.beginExclusive(p, false), g.q.BeginExclusive(&p.real, false))
}

func (g *game) takeOut(arg int) {
	slot := arg%mostSlots + 1
	g.note("out %d", slot)
	g.expect("vacant", g.q.Out(slot), g.m.takeOut(slot))
}

func (g *game) putIn(arg int) {
	slot := arg%mostSlots + 1
	g.note("in %d", slot)
	g.woken(g.m.putIn(slot), g.q.In(slot, g.m.now))
}

func (g *game) resize(arg int) {
	b := g.m.Bounds
	b.Limit, b.MaxWaiting = arg%(mostSlots+1), arg/(mostSlots+1)%16-1
	g.set(b)
}

func (g *game) share(arg int) {
	b := g.m.Bounds
	b.PerClient, b.WaitingPerClient = arg%4, arg/4%4
	g.set(b)
}

func (g *game) age(arg int) {
	b := g.m.Bounds
	b.PriorityAge = []time.Duration{0, time.Second, 3 * time.Second, 20 * time.Second}[arg%4]
	g.set(b)
}

func (g *game) set(b Bounds) {
	g.note("set %+v", b)
	g.woken(g.m.set(b), g.q.Set(b, g.m.now)...)
}

func (g *game) pause(int) {
	g.note("pause")
	g.q.Pause()
	g.m.paused = true
}

func (g *game) resume(int) {
	g.note("resume")
	g.m.paused = false
	g.woken(g.m.admit(), g.q.Resume(g.m.now)...)
}

func (g *game) takeAllOut(int) {
	g.note("take all out")
	g.q.OutAll()
	g.m.allOut = true
}

func (g *game) putAllIn(int) {
	g.note("put all in")
	g.m.allOut = false
	g.woken(g.m.admit(), g.q.InAll(g.m.now)...)
}

// close comes seldom, since little happens afterwards.
func (g *game) close(arg int) {
	if arg >= 240 {
		g.note("close")
		g.woken(g.m.close(), g.q.Close()...)
	}
}

func (g *game) askVacant(int) {
	g.note("vacant")
	g.vacant, g.wasVacant = g.q.Vacant(), false
}

func (g *game) checkVacant() {
	g.wasVacant = g.wasVacant || len(g.m.holders)+len(g.m.exclusives) == 0
	select {
	case <-g.vacant:
		if !g.wasVacant {
			g.fail("Vacant is closed although there was a holder all the time")
		}
	default:
		if g.vacant != nil && g.wasVacant {
			g.fail("Vacant is open although all have gone")
		}
	}
}

// compare checks all that a queue and its waiters show.
func (g *game) compare() {
	m := g.m
	checkInvariants(g, g.q)
	most := m.steps % 8 // often fewer than wait
	stats, holders, waiters := g.q.Snapshot(most)
	want := Stats{
		Held: len(m.holders), Waiting: len(m.line),
		Paused: m.paused, Exclusive: len(m.exclusives) > 0, Total: m.total,
		Clients: len(g.q.clients), // checkInvariants has counted them
	}
	if len(m.line) > 0 {
		want.Oldest = m.line[0].want.Joined
	}
	if stats != want || g.q.Stats() != want {
		g.fail("found %+v, expected %+v", stats, want)
	}
	if t := stats.Total; t.Joined != t.Refused+t.Left+t.Granted+uint64(stats.Waiting) {
		g.fail("found totals %+v with %d waiting, expected them to add up", t, stats.Waiting)
	}
	visits, quiet := g.q.Idle()
	if want := m.total.Joined - m.total.Refused; visits != want || quiet != (len(m.holders)+len(m.line) == 0) {
		g.fail("found %d visits, quiet %t, with %d holders and %d waiters, expected %d visits", visits, quiet, len(m.holders), len(m.line), want)
	}
	for _, p := range m.all {
		g.q.mu.Lock()
		found := g.q.find(p.real.ID)
		g.q.mu.Unlock()
		if there := p.real.ID > 0 && (p.want.State == Waiting || p.want.Slot > 0); there != (found == &p.real) {
			g.fail("found %v by its seq %t, expected %t", p.real.Owner, !there, there)
		}
	}
	for _, part := range []struct {
		name string
		got  []Waiter
		want []*person
	}{{"holders", holders, m.holders}, {"waiters", waiters, first(m.inOrder(), most)}} {
		if !slices.EqualFunc(part.got, part.want, same) {
			g.fail("found %s %+v, expected %v", part.name, part.got, wants(part.want))
		}
	}
	for _, p := range slices.Concat(m.holders, m.exclusives) {
		if got, want := g.q.IsExclusive(&p.real), p == m.exclusive(); got != want {
			g.fail("found %d alone %t, expected %t", p.real.Owner, got, want)
		}
	}
}

func first(people []*person, most int) []*person {
	return people[:min(most, len(people))]
}

// same compares what a waiter shows, not what is the queue's own.
func same(got Waiter, p *person) bool {
	return shown(got) == p.want
}

func (g *game) note(format string, args ...any) {
	g.notes = append(g.notes, fmt.Sprintf(format, args...))
}

func (g *game) fail(format string, args ...any) {
	g.t.Helper()
	g.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(g.notes, "\n"))
}

// Helper and Fatalf are for checkInvariants.
func (g *game) Helper()                           {}
func (g *game) Fatalf(format string, args ...any) { g.fail(format, args...) }

func (g *game) expect(what string, got, want bool) {
	if got != want {
		g.fail("%s: found %t, expected %t", what, got, want)
	}
}

func (g *game) woken(want []*person, got ...*Waiter) {
	if len(got) == 1 && got[0] == nil {
		got = nil
	}
	if !slices.EqualFunc(got, want, func(g *Waiter, w *person) bool { return g == &w.real }) {
		g.fail("found %d to be woken, expected %d: %+v", len(got), len(want), wants(want))
	}
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

func wants(people []*person) (places []Waiter) {
	for _, p := range people {
		places = append(places, p.want)
	}
	return places
}

// The queue does what the model does, whatever the schedule: thousands at random, and a
// failure is made as short as it can be.
func TestAgainstModel(t *testing.T) {
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
		schedule := make([]byte, 400)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(schedule)
		f.Add(schedule)
	}
	f.Fuzz(func(t *testing.T, schedule []byte) {
		play(t, schedule[:min(len(schedule), 1000)]) // more takes longer and shows no more
	})
}
