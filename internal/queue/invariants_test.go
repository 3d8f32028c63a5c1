package queue

// fatal is what a check needs of a test.
type fatal interface {
	Helper()
	Fatalf(string, ...any)
}

// checkInvariants holds a queue against the head comment of queue.go, and its lists
// against themselves.
func checkInvariants(t fatal, q *Queue) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	checkSlots(t, q)
	checkLine(t, q)
	checkClients(t, q)
	for _, p := range q.exclusives {
		if p.State != Exclusive || p.Slot != 0 && q.slots[p.Slot].holder != p {
			t.Fatalf("found %v among the exclusive waiters, with state %d and slot %d", p.Owner, p.State, p.Slot)
		}
	}
	if q.vacant != nil && q.held == 0 && len(q.exclusives) == 0 {
		t.Fatalf("found no holder, and the channel of Vacant not closed")
	}
	if p := q.line.first(q.bounds.PriorityAge); p != nil && q.admitting() {
		t.Fatalf("found %v in line beside a slot that may be granted", p.Owner)
	}
}

func checkSlots(t fatal, q *Queue) {
	t.Helper()
	held, free := 0, 0
	for i, s := range q.slots {
		if s.holder != nil {
			held++
			if s.holder.Slot != i || s.holder.State != Holding && s.holder.State != Exclusive {
				t.Fatalf("found in slot %d a waiter with slot %d and state %d", i, s.holder.Slot, s.holder.State)
			}
		} else if i >= 1 && i <= q.bounds.Limit && !s.out {
			free++
		}
	}
	if held != q.held {
		t.Fatalf("found held %d, expected %d as many as slots with a holder", q.held, held)
	}
	last := 0
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		if free--; free < 0 || i > q.bounds.Limit || q.slots[i].holder != nil || q.slots[i].out {
			t.Fatalf("found slot %d of %d in the free list, expected it neither held, out of service nor twice", i, q.bounds.Limit)
		}
		last = i
	}
	if free != 0 || last != q.lastFree {
		t.Fatalf("found %d free slots not in the list, and its end at %d, expected none and %d", free, q.lastFree, last)
	}
}

func checkLine(t fatal, q *Queue) {
	t.Helper()
	n := 0
	check := func(l *line, aside *client) {
		for i, list := range l.lists {
			if i > 0 && l.lists[i-1].priority <= list.priority {
				t.Fatalf("found a list for priority %d behind one for %d", list.priority, l.lists[i-1].priority)
			}
			last := &list.root
			for p := last.next; p != &list.root; p = p.next {
				if p.prev != last || p.next.prev != p || p.State != Waiting || p.Priority != list.priority {
					t.Fatalf("found the line broken at %v", p.Owner)
				}
				if last != &list.root && p.before(last) || aside != nil && p.from != aside {
					t.Fatalf("found %v in the wrong place", p.Owner)
				}
				last = p
				n++
			}
		}
	}
	check(&q.line, nil)
	for _, c := range q.clients {
		check(&c.aside, c)
	}
	if n != q.waiting {
		t.Fatalf("found waiting %d, expected %d as many as stand in line or aside", q.waiting, n)
	}
}

// checkClients counts the slots and the waiters of each client.
func checkClients(t fatal, q *Queue) {
	t.Helper()
	places := q.waiters(q.waiting)
	for _, s := range q.slots {
		if s.holder != nil {
			places = append(places, s.holder)
		}
	}
	count := make(map[ClientKey]client)
	for _, p := range places {
		if p.Client == 0 || !q.bounds.countClients() {
			if p.from != nil {
				t.Fatalf("found %v to have a client, expected none", p.Owner)
			}
			continue
		}
		if p.from == nil || q.clients[p.Client] != p.from {
			t.Fatalf("found the client of %v not among the clients", p.Owner)
		}
		c := count[p.Client]
		if p.State == Waiting {
			c.waiting++
		} else {
			c.held++
		}
		count[p.Client] = c
	}
	if len(q.clients) != len(count) {
		t.Fatalf("found %d clients, expected the %d that hold or wait", len(q.clients), len(count))
	}
	for key, c := range q.clients {
		if want := count[key]; c.held != want.held || c.waiting != want.waiting {
			t.Fatalf("found client %d with %d slots and %d waiters, expected %d and %d", key, c.held, c.waiting, want.held, want.waiting)
		}
	}
}
