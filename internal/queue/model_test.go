package queue

import (
	"cmp"
	"slices"
	"time"
)

// person is a user of a queue: its waiter in the real queue, and the state that the model expects.
type person struct {
	real  Waiter
	want  Waiter    // without what is the queue's own, see same
	since time.Time // when it last lined up or was granted a slot
}

// model is a queue in its simplest form: lists of people, and one rule, in admit, that is applied
// after every step.
type model struct {
	Bounds
	paused, closed bool
	allOut         bool // of service

	line       []*person    // by arrival
	holders    []*person    // by slot
	exclusives []*person    // have begun exclusive access, in this order
	out        map[int]bool // slots out of service
	freeSince  map[int]int  // slots that may be taken, and the step at which each became one
	grants     uint64
	total      Totals
	latest     uint64 // the highest Arrival

	steps int
	now   time.Time
	all   []*person
}

func newModel() *model {
	m := &model{Bounds: Bounds{MaxWaiting: Unlimited}, out: make(map[int]bool), freeSince: make(map[int]int)}
	m.begin()
	return m
}

// begin begins a step. The clock moves with every other step, so that two may arrive in one
// instant.
func (m *model) begin() {
	m.steps++
	m.now = time.Unix(int64(m.steps/2), 0)
}

// inOrder is the line in the order in which it goes.
func (m *model) inOrder() []*person {
	people := slices.Clone(m.line)
	slices.SortStableFunc(people, func(a, b *person) int {
		byPriority := b.want.Priority - a.want.Priority
		if m.PriorityAge == 0 {
			return byPriority
		}
		aged := func(p *person) int { // what waiting has made of its priority, in seconds
			return p.want.Priority*int(m.PriorityAge/time.Second) + int(m.now.Sub(p.want.Joined)/time.Second)
		}
		if a, b := aged(a), aged(b); a != b {
			return b - a
		}
		return byPriority
	})
	return people
}

// admit grants slots as long as there is a slot, a person to have it, and no reason against it. The
// first person in order whose client is not at its limit gets the slot that has been free longest.
func (m *model) admit() (admitted []*person) {
	for {
		if m.updateFree(); !m.admitting() {
			return admitted
		}
		line := m.inOrder()
		i := slices.IndexFunc(line, func(p *person) bool { return !m.atLimit(p) })
		if i < 0 {
			return admitted
		}
		p := line[i]
		m.line = without(m.line, p)
		m.take(p)
		m.grants++
		m.total.Granted++
		p.want.Number = m.grants
		p.want.Waited += m.now.Sub(p.since)
		p.since = m.now
		admitted = append(admitted, p)
	}
}

func (m *model) admitting() bool {
	return len(m.freeSince) > 0 && len(m.holders) < m.Limit && !m.paused && !m.allOut && !m.closed && len(m.exclusives) == 0
}

func (m *model) atLimit(p *person) bool {
	return m.PerClient > 0 && p.want.Client != 0 && ofClient(m.holders, p) >= m.PerClient
}

func ofClient(people []*person, p *person) (n int) {
	for _, other := range people {
		if other.want.Client == p.want.Client {
			n++
		}
	}
	return n
}

// updateFree notes which slots have become free, and which are not free any more.
func (m *model) updateFree() {
	for slot := 1; slot <= mostSlots; slot++ {
		_, known := m.freeSince[slot]
		switch free := slot <= m.Limit && !m.out[slot] && m.holder(slot) == nil; {
		case !free:
			delete(m.freeSince, slot)
		case !known:
			m.freeSince[slot] = m.steps
		}
	}
}

func (m *model) holder(slot int) *person {
	for _, p := range m.holders {
		if p.want.Slot == slot {
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
	p.want.State, p.want.Slot = Holding, longest
	m.holders = append(m.holders, p)
	slices.SortFunc(m.holders, func(a, b *person) int { return a.want.Slot - b.want.Slot })
	m.updateFree()
}

func (m *model) vacate(p *person) {
	m.holders = without(m.holders, p)
	p.want.Slot = 0
	m.updateFree()
}

// exclusive is the first in the list for which every other holder is in the list too, and not
// at the service. If there is none because several are at the service, it is the first of
// these.
func (m *model) exclusive() *person {
	if len(notIn(m.holders, m.exclusives)) > 0 {
		return nil
	}
	var atService []*person
	for _, p := range m.exclusives {
		if p.want.atService {
			atService = append(atService, p)
		}
	}
	for _, p := range m.exclusives {
		if len(without(atService, p)) == 0 {
			return p
		}
	}
	if len(atService) > 0 {
		return atService[0]
	}
	return nil
}

// handOn returns those to wake after a slot has come free.
func (m *model) handOn() []*person {
	if alone := m.exclusive(); alone != nil {
		return []*person{alone}
	}
	return m.admit()
}

// intruder does not join, and will begin exclusive access.
func (m *model) intruder() *person {
	p := m.arrive(0, 0, 0)
	p.want.Joined = time.Time{}
	return p
}

func (m *model) arrive(client ClientKey, priority int, arrival uint64) *person {
	p := &person{since: m.now}
	p.real = Waiter{Owner: len(m.all), Client: client, Priority: priority, Arrival: arrival}
	p.want = p.real
	p.want.Joined = m.now
	m.all = append(m.all, p)
	return p
}

func (m *model) refuse(p *person) {
	m.line = without(m.line, p)
	p.want.State = Gone
	m.total.Refused++
}

func (m *model) join(client ClientKey, priority int, arrival uint64) (p *person, err error) {
	m.latest = max(m.latest, arrival)
	if p = m.arrive(client, priority, arrival); arrival == 0 {
		p.want.Arrival = m.latest
	}
	m.total.Joined++
	ahead, ofHis := len(m.line), ofClient(m.line, p)
	m.lineUp(p)
	m.admit()
	switch {
	case p.want.State == Holding:
		return p, nil
	case m.closed:
		err = ErrClosed
	case m.MaxWaiting != Unlimited && ahead >= m.MaxWaiting && m.paused:
		err = ErrFullPaused
	case m.MaxWaiting != Unlimited && ahead >= m.MaxWaiting:
		err = ErrFull
	case m.WaitingPerClient > 0 && client != 0 && ofHis >= m.WaitingPerClient:
		err = ErrClientFull
	default:
		p.want.Ahead = ahead
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
	p.want.State = Gone
	m.total.Left++
	return true
}

func (m *model) release(p *person) []*person {
	m.vacate(p)
	p.want.State = Gone
	return m.handOn()
}

// requeue puts p where it would stand if it had not been granted a slot.
func (m *model) requeue(p *person) []*person {
	m.vacate(p)
	m.total.Granted--
	hooks := m.now.Sub(p.since) / 2
	p.want.Apart += hooks
	p.since = p.since.Add(hooks) // the rest counts as time in line
	if m.closed {
		m.refuse(p)
		return m.handOn()
	}
	m.lineUp(p)
	return m.handOn()
}

func (m *model) lineUp(p *person) {
	p.want.State = Waiting
	m.line = append(m.line, p)
	slices.SortFunc(m.line, func(a, b *person) int {
		return cmp.Or(cmp.Compare(a.want.Arrival, b.want.Arrival), cmp.Compare(a.want.Owner.(int), b.want.Owner.(int)))
	})
}

// tryExclusive is for a waiter that has no connection and counts nowhere.
func (m *model) tryExclusive(p *person) bool {
	if len(m.holders) > 0 || len(m.line) > 0 || m.paused || m.closed || len(m.exclusives) > 0 {
		return false
	}
	m.beginExclusive(p, false)
	return true
}

func (m *model) beginExclusive(p *person, atService bool) []*person {
	p.want.State, p.want.atService = Exclusive, atService
	m.exclusives = append(m.exclusives, p)
	if alone := m.exclusive(); alone != nil {
		return []*person{alone}
	}
	return nil
}

func (m *model) endExclusive(p *person) ([]*person, bool) {
	if alone := m.exclusive(); alone != nil && alone != p && p.want.Slot > 0 {
		return nil, false
	}
	p.want.atService = false
	if p.want.State = Holding; p.want.Slot == 0 {
		p.want.State = Gone
	}
	m.exclusives = without(m.exclusives, p)
	return append(slices.Clone(m.exclusives), m.admit()...), true
}

func (m *model) takeOut(slot int) (vacant bool) {
	m.out[slot] = true
	m.updateFree()
	return m.holder(slot) == nil
}

func (m *model) putIn(slot int) []*person {
	delete(m.out, slot)
	return m.admit()
}

func (m *model) set(b Bounds) []*person {
	m.Bounds = b
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
