package tcplock

import (
	"cmp"
	"slices"
	"time"
)

// The line: who waits, in the order in which they go.
//
// Within one priority that is the order of joining. Between two priorities the higher
// one goes first; or, with a priority age, each such time in line makes up for 1 of
// priority, so that nobody waits for ever. Since all in line age alike, who of two goes
// first does not change while they wait: the one with priority n goes as if it had
// joined n ages earlier. So it is enough to compare the first of each priority.
//
// One whose client holds as many slots as it may, and whose turn it is, stands aside.
// For each of them that may go on, because one of its client has left its slot or the
// line, one comes back: there are always enough in line to fill the client's share. Who
// comes back has been the first in line once, so it goes in near the front.

// line is a list of places for each priority, in the order of joining. A priority has a
// list from when it is first seen on: they are few, since the config names them.
type line struct {
	lists []*list // the highest priority first
}

type list struct {
	priority int
	ends     place // next is the first, prev the last
}

// of returns the list for a priority.
func (l *line) of(priority int) *list {
	i := 0
	for ; i < len(l.lists) && l.lists[i].priority >= priority; i++ {
		if l.lists[i].priority == priority {
			return l.lists[i]
		}
	}
	made := &list{priority: priority}
	made.ends.prev, made.ends.next = &made.ends, &made.ends
	l.lists = slices.Insert(l.lists, i, made)
	return made
}

// add puts p where it belongs: at the end, if it is new.
func (l *line) add(p *place) {
	ends := &l.of(p.priority).ends
	next := ends
	if ends.prev.seq > p.seq { // ends.seq is 0
		for next = ends.next; next.seq < p.seq; {
			next = next.next
		}
	}
	p.prev, p.next = next.prev, next
	p.prev.next, p.next.prev = p, p
}

// first returns who goes first, nil if nobody is there.
func (l *line) first(age time.Duration) (first *place) {
	for _, list := range l.lists {
		p := list.ends.next
		if p == &list.ends {
			continue
		}
		if first == nil || age > 0 && p.rank(age).Before(first.rank(age)) {
			first = p
		}
	}
	return first
}

// find returns the place with that seq, nil if it is not there.
func (l *line) find(seq uint64) *place {
	for _, list := range l.lists {
		for p := list.ends.next; p != &list.ends && p.seq <= seq; p = p.next {
			if p.seq == seq {
				return p
			}
		}
	}
	return nil
}

// rank is when p would have joined if it had no priority.
func (p *place) rank(age time.Duration) time.Time {
	return p.joined.Add(-time.Duration(p.priority) * age)
}

// clientKey is who a connection comes from: an address to those who make one, just a
// value here.
type clientKey uint64

// client is who shares the bounds of each client. It is there as long as one of its
// places holds or waits.
type client struct {
	held    int
	waiting int  // in line and aside
	aside   line // wait until one of the others leaves its slot
}

func (b *bounds) countsClients() bool { return b.perClient > 0 || b.waitingPerClient > 0 }

// All below is called with the mutex held.

// know finds p's client.
func (q *queue) know(p *place) {
	if p.client == 0 {
		return
	}
	p.from = q.clients[p.client]
	if p.from == nil {
		if p.from = q.spare; p.from == nil {
			p.from = new(client)
		}
		q.spare = nil
		q.clients[p.client] = p.from
	}
}

// forget forgets p's client, if that was its last place.
func (q *queue) forget(p *place) {
	c := p.from
	p.from = nil
	if c != nil && c.held == 0 && c.waiting == 0 {
		delete(q.clients, p.client)
		q.spare = c // so that the next one costs no memory
	}
}

// hasItsShare reports whether c holds as many slots as it may.
func (q *queue) hasItsShare(c *client) bool {
	return c != nil && q.perClient > 0 && c.held >= q.perClient
}

// lineUp puts p in line, or aside if it would be its turn at once.
func (q *queue) lineUp(p *place) {
	q.link(p)
	if q.admitting() && q.hasItsShare(p.from) {
		q.standAside(p)
	}
}

func (q *queue) link(p *place) {
	p.state = placeWaiting
	q.waiting++
	if p.from != nil {
		p.from.waiting++
	}
	q.line.add(p)
}

func (q *queue) unlink(p *place) {
	q.waiting--
	if p.from != nil {
		p.from.waiting--
	}
	p.detach()
}

// detach takes p out of the list it is in.
func (p *place) detach() {
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}

// stepOut takes p out of the line for good.
func (q *queue) stepOut(p *place) {
	q.unlink(p)
	if p.from != nil {
		q.bringBack(p.from)
	}
}

func (q *queue) standAside(p *place) {
	p.detach()
	p.from.aside.add(p)
}

// bringBack puts one of c's places that stand aside in line again, if it may go on.
func (q *queue) bringBack(c *client) {
	if q.hasItsShare(c) {
		return
	}
	if p := c.aside.first(q.priorityAge); p != nil {
		p.detach()
		q.line.add(p)
	}
}

// waiters returns the first of those who wait, at most so many, in the order in which
// they go if they may.
func (q *queue) waiters(most int) []*place {
	all := make([]*place, 0, min(most, q.waiting))
	collect := func(l *line) {
		for _, list := range l.lists {
			n := 0 // the first ones of all are among the first of each list
			for p := list.ends.next; p != &list.ends && n < most; p = p.next {
				all = append(all, p)
				n++
			}
		}
	}
	collect(&q.line)
	if len(q.line.lists) == 1 && len(q.clients) == 0 {
		return all
	}
	for _, c := range q.clients {
		collect(&c.aside)
	}
	slices.SortFunc(all, func(a, b *place) int {
		switch {
		case a.priority == b.priority:
			return cmp.Compare(a.seq, b.seq)
		case q.priorityAge > 0 && !a.rank(q.priorityAge).Equal(b.rank(q.priorityAge)):
			return a.rank(q.priorityAge).Compare(b.rank(q.priorityAge))
		}
		return cmp.Compare(b.priority, a.priority)
	})
	return all[:min(most, len(all))]
}

// regroup counts the clients anew, after their bounds have changed.
func (q *queue) regroup() {
	all := q.waiters(q.waiting)
	q.waiting, q.line, q.clients = 0, line{}, make(map[clientKey]*client)
	know := func(p *place) {
		if p.from = nil; q.countsClients() {
			q.know(p)
		}
	}
	for _, s := range q.slots {
		if p := s.holder; p != nil {
			if know(p); p.from != nil {
				p.from.held++
			}
		}
	}
	for _, p := range all {
		know(p)
		q.link(p)
	}
}
