package queue

import (
	"cmp"
	"slices"
	"time"
)

// The line: the waiters, in the order in which they go.
//
// Within one priority that is the order of arrival, and of joining where the caller does not tell it.
// Between two priorities the higher one goes first. With a priority age, a waiter gains 1 priority point
// each time it has waited for so long, so no waiter waits for ever. All waiters age alike, so the order
// of two waiters never changes while they wait: a waiter with priority n goes as if it had joined n ages
// earlier. So it is enough to compare the first waiters of all priorities.
//
// When the turn comes for a waiter whose client holds as many slots as it may, that waiter stands
// aside. Whenever one of the client's waiters leaves its slot or the line, one that stands aside
// comes back: so there are always enough waiters in line to fill the client's share. A waiter that
// comes back was the first in line before, so it goes in near the front.

// line has a list of waiters for each priority, in the order of arrival. A list stays once its
// priority was seen: there are few priorities, since the config names them.
type line struct {
	lists []*list // the highest priority first
}

type list struct {
	priority int
	root     Waiter // next is the first waiter, prev the last
}

// waiters iterates over a list.
func (l *list) waiters(yield func(*Waiter) bool) {
	for w := l.root.next; w != &l.root && yield(w); w = w.next {
	}
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
	made.root.prev, made.root.next = &made.root, &made.root
	l.lists = slices.Insert(l.lists, i, made)
	return made
}

// add puts w where it belongs. Mostly that is the end. A waiter that comes back goes in near the
// front, and one that has arrived before others, but joins after them, near the end.
func (l *line) add(w *Waiter) {
	root := &l.of(w.Priority).root
	next := root
	if w.before(root.prev) { // not if the list is empty: nothing is before root
		for front, back := root.next, root.prev; ; front, back = front.next, back.prev {
			if w.before(front) {
				next = front
				break
			}
			if back.before(w) {
				next = back.next
				break
			}
		}
	}
	w.prev, w.next = next.prev, next
	w.prev.next, w.next.prev = w, w
}

// before reports whether w goes before another waiter of the same priority.
func (w *Waiter) before(other *Waiter) bool {
	return w.Arrival < other.Arrival || w.Arrival == other.Arrival && w.ID < other.ID
}

// first returns the waiter that goes first, nil if the line is empty.
func (l *line) first(age time.Duration) (first *Waiter) {
	for _, list := range l.lists {
		w := list.root.next
		if w == &list.root {
			continue
		}
		if first == nil || age > 0 && w.rank(age).Before(first.rank(age)) {
			first = w
		}
	}
	return first
}

// rank is when w would have joined if it had no priority.
func (w *Waiter) rank(age time.Duration) time.Time {
	return w.Joined.Add(-time.Duration(w.Priority) * age)
}

// ClientKey says which client a connection comes from. It stands for an address; to the queue it
// is just a value.
type ClientKey uint64

type clientTable struct {
	clients map[ClientKey]*client
	spare   *client // of a client that has gone, to be used again; nil: none
}

// client is what the waiters of one client share. It exists as long as one of them waits or holds
// a slot.
type client struct {
	held    int
	waiting int  // in line and aside
	aside   line // these wait until one of the others leaves its slot
}

// countClients reports whether there are bounds for each client.
func (b *Bounds) countClients() bool { return b.PerClient > 0 || b.WaitingPerClient > 0 }

// The mutex is held in all functions below.

// attachClient sets w.from, if there are bounds for w's client.
func (q *Queue) attachClient(w *Waiter) {
	if w.Client == 0 || !q.bounds.countClients() {
		w.from = nil
		return
	}
	if w.from = q.clients[w.Client]; w.from == nil {
		if w.from = q.spare; w.from == nil {
			w.from = new(client)
		}
		q.spare = nil
		q.clients[w.Client] = w.from
	}
}

// detachClient forgets w's client if w was the last that it had here.
func (q *Queue) detachClient(w *Waiter) {
	c := w.from
	w.from = nil
	if c != nil && c.held == 0 && c.waiting == 0 {
		delete(q.clients, w.Client)
		q.spare = c // the next client then costs no memory
	}
}

// atLimit reports whether c holds as many slots as it may.
func (q *Queue) atLimit(c *client) bool {
	return c != nil && q.bounds.PerClient > 0 && c.held >= q.bounds.PerClient
}

// enqueue puts w in line, or aside if its turn would come at once.
func (q *Queue) enqueue(w *Waiter) {
	q.link(w)
	if q.admitting() && q.atLimit(w.from) {
		q.setAside(w)
	}
}

func (q *Queue) link(w *Waiter) {
	w.State = Waiting
	q.waiting++
	if w.from != nil {
		w.from.waiting++
	}
	q.line.add(w)
}

func (q *Queue) unlink(w *Waiter) {
	q.waiting--
	if w.from != nil {
		w.from.waiting--
	}
	w.detach()
}

// detach takes w out of the list that it is in.
func (w *Waiter) detach() {
	w.prev.next, w.next.prev = w.next, w.prev
	w.prev, w.next = nil, nil
}

// dequeue takes w out of the line for good.
func (q *Queue) dequeue(w *Waiter) {
	q.unlink(w)
	if w.from != nil {
		q.readmit(w.from)
	}
}

func (q *Queue) setAside(w *Waiter) {
	w.detach()
	w.from.aside.add(w)
}

// readmit puts one of c's waiters that stand aside in line again, if c may hold one more slot.
func (q *Queue) readmit(c *client) {
	if q.atLimit(c) {
		return
	}
	if w := c.aside.first(q.bounds.PriorityAge); w != nil {
		w.detach()
		q.line.add(w)
	}
}

// lists iterates over all waiters, in line and aside.
func (q *Queue) lists(yield func(*list) bool) {
	for _, list := range q.line.lists {
		if !yield(list) {
			return
		}
	}
	for _, c := range q.clients {
		for _, list := range c.aside.lists {
			if !yield(list) {
				return
			}
		}
	}
}

// waiters returns the first waiters, in line and aside, at most so many. They are in the order in
// which they would go if each of them might go.
func (q *Queue) waiters(most int) []*Waiter {
	all := make([]*Waiter, 0, min(most, q.waiting))
	for list := range q.lists {
		n := 0 // the first of all are among the first of each list
		for w := range list.waiters {
			if n++; n > most {
				break
			}
			all = append(all, w)
		}
	}
	age := q.bounds.PriorityAge
	slices.SortFunc(all, func(a, b *Waiter) int {
		switch {
		case a.Priority == b.Priority:
			return cmp.Or(cmp.Compare(a.Arrival, b.Arrival), cmp.Compare(a.ID, b.ID))
		case age > 0 && !a.rank(age).Equal(b.rank(age)):
			return a.rank(age).Compare(b.rank(age))
		}
		return cmp.Compare(b.Priority, a.Priority)
	})
	return all[:min(most, len(all))]
}

// recountClients counts the clients anew, after their bounds have changed.
func (q *Queue) recountClients() {
	all := q.waiters(q.waiting)
	q.waiting, q.line, q.clients = 0, line{}, make(map[ClientKey]*client)
	for _, s := range q.slots {
		if w := s.holder; w != nil {
			if q.attachClient(w); w.from != nil {
				w.from.held++
			}
		}
	}
	for _, w := range all {
		q.attachClient(w)
		q.link(w)
	}
}
