package tcplock

import (
	"slices"
	"time"
)

// person is somebody who uses a queue: the place in the real one, and what the model
// says it should look like.
type person struct {
	real  place
	want  place     // without what is the queue's own, see same
	since time.Time // when it last lined up or was granted a slot
}

// model is a queue as one would explain it to somebody: lists of people, and one rule,
// in admit, that is applied after every step.
type model struct {
	bounds
	paused, closed bool

	line      []*person    // by arrival
	holders   []*person    // by slot
	secluding []*person    // those who want to be alone, by when they asked
	out       map[int]bool // slots out of service
	freeSince map[int]int  // slots that may be taken, and the step at which each became one
	grants    uint64
	total     totals

	steps int
	now   time.Time
	all   []*person
}

func newModel() *model {
	m := &model{bounds: bounds{maxWaiting: unlimited}, out: make(map[int]bool), freeSince: make(map[int]int)}
	m.begin()
	return m
}

// begin begins a step. The clock moves on with every other one, so that two may arrive
// in one instant.
func (m *model) begin() {
	m.steps++
	m.now = time.Unix(int64(m.steps/2), 0)
}

// inOrder is the line in the order in which it goes.
func (m *model) inOrder() []*person {
	people := slices.Clone(m.line)
	slices.SortStableFunc(people, func(a, b *person) int {
		byPriority := b.want.priority - a.want.priority
		if m.priorityAge == 0 {
			return byPriority
		}
		aged := func(p *person) int { // what waiting has made of its priority, in seconds
			return p.want.priority*int(m.priorityAge/time.Second) + int(m.now.Sub(p.want.joined)/time.Second)
		}
		if a, b := aged(a), aged(b); a != b {
			return b - a
		}
		return byPriority
	})
	return people
}

// admit grants slots for as long as there is one, somebody to have it and no reason not
// to: to the first in order whose client has not its share, the slot that has been free
// longest.
func (m *model) admit() (admitted []*person) {
	for {
		if m.lookAtSlots(); !m.admitting() {
			return admitted
		}
		line := m.inOrder()
		i := slices.IndexFunc(line, func(p *person) bool { return !m.hasItsShare(p) })
		if i < 0 {
			return admitted
		}
		p := line[i]
		m.line = without(m.line, p)
		m.take(p)
		m.grants++
		m.total.Granted++
		p.want.number = m.grants
		p.want.waited += m.now.Sub(p.since)
		p.since = m.now
		admitted = append(admitted, p)
	}
}

func (m *model) admitting() bool {
	return len(m.freeSince) > 0 && len(m.holders) < m.limit && !m.paused && !m.closed && len(m.secluding) == 0
}

func (m *model) hasItsShare(p *person) bool {
	return m.perClient > 0 && p.want.client != 0 && ofClient(m.holders, p) >= m.perClient
}

func ofClient(people []*person, p *person) (n int) {
	for _, other := range people {
		if other.want.client == p.want.client {
			n++
		}
	}
	return n
}

// lookAtSlots notes which have become free and which are free no longer.
func (m *model) lookAtSlots() {
	for slot := 1; slot <= mostSlots; slot++ {
		_, known := m.freeSince[slot]
		switch free := slot <= m.limit && !m.out[slot] && m.holder(slot) == nil; {
		case !free:
			delete(m.freeSince, slot)
		case !known:
			m.freeSince[slot] = m.steps
		}
	}
}

func (m *model) holder(slot int) *person {
	for _, p := range m.holders {
		if p.want.slot == slot {
			return p
		}
	}
	return nil
}

func (m *model) take(p *person) {
	longest := 0
	for slot := 1; slot <= mostSlots; slot++ {
		since, free := m.freeSince[slot]
		if free && (longest == 0 || since < m.freeSince[longest]) {
			longest = slot
		}
	}
	p.want.state, p.want.slot = placeHolding, longest
	m.holders = append(m.holders, p)
	slices.SortFunc(m.holders, func(a, b *person) int { return a.want.slot - b.want.slot })
	m.lookAtSlots()
}

func (m *model) vacate(p *person) {
	m.holders = without(m.holders, p)
	p.want.slot = 0
	m.lookAtSlots()
}

// alone is the first in the list for which every other holder is in the list too, and not
// at the service. If there is none because several are at the service, it is the first of
// these.
func (m *model) alone() *person {
	if len(notIn(m.holders, m.secluding)) > 0 {
		return nil
	}
	var atService []*person
	for _, p := range m.secluding {
		if p.want.atService {
			atService = append(atService, p)
		}
	}
	for _, p := range m.secluding {
		if len(without(atService, p)) == 0 {
			return p
		}
	}
	if len(atService) > 0 {
		return atService[0]
	}
	return nil
}

// handOn is who is to be woken after a slot has come free.
func (m *model) handOn() []*person {
	if alone := m.alone(); alone != nil {
		return []*person{alone}
	}
	return m.admit()
}

// intruder is somebody who does not join, and will want to be alone.
func (m *model) intruder() *person {
	p := m.arrive(0, 0)
	p.want.joined = time.Time{}
	return p
}

func (m *model) arrive(client clientKey, priority int) *person {
	p := &person{since: m.now}
	p.real = place{owner: len(m.all), client: client, priority: priority}
	p.want = p.real
	p.want.joined = m.now
	m.all = append(m.all, p)
	return p
}

func (m *model) refuse(p *person) {
	m.line = without(m.line, p)
	p.want.state = placeGone
	m.total.Refused++
}

func (m *model) join(client clientKey, priority int) (p *person, err error) {
	p = m.arrive(client, priority)
	m.total.Joined++
	ahead, ofHis := len(m.line), ofClient(m.line, p)
	m.line = append(m.line, p)
	p.want.state = placeWaiting
	m.admit()
	switch {
	case p.want.state == placeHolding:
		return p, nil
	case m.closed:
		err = errClosed
	case m.maxWaiting != unlimited && ahead >= m.maxWaiting && m.paused:
		err = errFullPaused
	case m.maxWaiting != unlimited && ahead >= m.maxWaiting:
		err = errFull
	case m.waitingPerClient > 0 && client != 0 && ofHis >= m.waitingPerClient:
		err = errClientFull
	default:
		p.want.ahead = ahead
		return p, nil
	}
	m.refuse(p)
	return p, err
}

func (m *model) leave(p *person) bool {
	if !slices.Contains(m.line, p) {
		return false
	}
	m.line = without(m.line, p)
	p.want.state = placeGone
	m.total.Left++
	return true
}

func (m *model) release(p *person) []*person {
	m.vacate(p)
	p.want.state = placeGone
	return m.handOn()
}

// requeue puts p where it would stand if it had not been granted a slot.
func (m *model) requeue(p *person) []*person {
	m.vacate(p)
	m.total.Granted--
	hooks := m.now.Sub(p.since) / 2
	p.want.apart += hooks
	p.since = p.since.Add(hooks) // the rest counts as time in line
	if m.closed {
		m.refuse(p)
		return m.handOn()
	}
	p.want.state = placeWaiting
	m.line = append(m.line, p)
	slices.SortFunc(m.line, func(a, b *person) int { return a.want.owner.(int) - b.want.owner.(int) })
	return m.handOn()
}

// seize is for who is nobody's connection and counts nowhere.
func (m *model) seize(p *person) bool {
	if len(m.holders) > 0 || len(m.line) > 0 || m.paused || m.closed || len(m.secluding) > 0 {
		return false
	}
	m.seclude(p, false)
	return true
}

func (m *model) seclude(p *person, atService bool) []*person {
	p.want.state, p.want.atService = placeSecluding, atService
	m.secluding = append(m.secluding, p)
	if alone := m.alone(); alone != nil {
		return []*person{alone}
	}
	return nil
}

func (m *model) include(p *person) ([]*person, bool) {
	if alone := m.alone(); alone != nil && alone != p && p.want.slot > 0 {
		return nil, false
	}
	p.want.atService = false
	if p.want.state = placeHolding; p.want.slot == 0 {
		p.want.state = placeGone
	}
	m.secluding = without(m.secluding, p)
	return append(slices.Clone(m.secluding), m.admit()...), true
}

func (m *model) takeOut(slot int) (vacant bool) {
	m.out[slot] = true
	m.lookAtSlots()
	return m.holder(slot) == nil
}

func (m *model) putIn(slot int) []*person {
	delete(m.out, slot)
	return m.admit()
}

func (m *model) set(b bounds) []*person {
	m.bounds = b
	return m.admit()
}

func (m *model) close() []*person {
	m.closed = true
	turnedAway := m.inOrder()
	for _, p := range turnedAway {
		m.refuse(p)
	}
	return turnedAway
}

func without(people []*person, p *person) []*person {
	return slices.DeleteFunc(slices.Clone(people), func(other *person) bool { return other == p })
}
