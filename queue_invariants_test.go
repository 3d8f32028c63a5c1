package tcplock

// fatal is what a check needs of a test.
type fatal interface {
	Helper()
	Fatalf(string, ...any)
}

// checkInvariants holds a queue against the head comment of queue.go, and its lists
// against themselves.
func checkInvariants(t fatal, q *queue) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	checkSlots(t, q)
	checkLine(t, q)
	checkClients(t, q)
	for _, p := range q.seclusion {
		if p.state != placeSecluding || p.slot != 0 && q.slots[p.slot].holder != p {
			t.Fatalf("found %v among those who want to be alone, with state %d and slot %d", p.owner, p.state, p.slot)
		}
	}
	if q.vacant != nil && q.held == 0 && len(q.seclusion) == 0 {
		t.Fatalf("found nobody there, and the channel that tells so not closed")
	}
	if p := q.line.first(q.priorityAge); p != nil && q.admitting() {
		t.Fatalf("found %v in line beside a slot that may be granted", p.owner)
	}
}

func checkSlots(t fatal, q *queue) {
	t.Helper()
	held, free := 0, 0
	for i, s := range q.slots {
		if s.holder != nil {
			held++
			if s.holder.slot != i || s.holder.state != placeHolding && s.holder.state != placeSecluding {
				t.Fatalf("found in slot %d a place with slot %d and state %d", i, s.holder.slot, s.holder.state)
			}
		} else if i >= 1 && i <= q.limit && !s.out {
			free++
		}
	}
	if held != q.held {
		t.Fatalf("found held %d, expected %d as many as slots with a holder", q.held, held)
	}
	last := 0
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		if free--; free < 0 || i > q.limit || q.slots[i].holder != nil || q.slots[i].out {
			t.Fatalf("found slot %d of %d in the free list, expected it neither held, out of service nor twice", i, q.limit)
		}
		last = i
	}
	if free != 0 || last != q.lastFree {
		t.Fatalf("found %d free slots not in the list, and its end at %d, expected none and %d", free, q.lastFree, last)
	}
}

func checkLine(t fatal, q *queue) {
	t.Helper()
	n := 0
	check := func(l *line, aside *client) {
		for i, list := range l.lists {
			if i > 0 && l.lists[i-1].priority <= list.priority {
				t.Fatalf("found a list for priority %d behind one for %d", list.priority, l.lists[i-1].priority)
			}
			last := &list.ends
			for p := last.next; p != &list.ends; p = p.next {
				if p.prev != last || p.next.prev != p || p.state != placeWaiting || p.priority != list.priority {
					t.Fatalf("found the line broken at %v", p.owner)
				}
				if p.seq <= last.seq || aside != nil && p.from != aside {
					t.Fatalf("found %v in the wrong place", p.owner)
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

// checkClients counts the slots and the places of each client.
func checkClients(t fatal, q *queue) {
	t.Helper()
	places := q.waiters(q.waiting)
	for _, s := range q.slots {
		if s.holder != nil {
			places = append(places, s.holder)
		}
	}
	count := make(map[clientKey]client)
	for _, p := range places {
		if p.client == 0 || !q.countsClients() {
			if p.from != nil {
				t.Fatalf("found %v to be somebody's, expected nobody's", p.owner)
			}
			continue
		}
		if p.from == nil || q.clients[p.client] != p.from {
			t.Fatalf("found the client of %v not among the clients", p.owner)
		}
		c := count[p.client]
		if p.state == placeWaiting {
			c.waiting++
		} else {
			c.held++
		}
		count[p.client] = c
	}
	if len(q.clients) != len(count) {
		t.Fatalf("found %d clients, expected the %d who hold or wait", len(q.clients), len(count))
	}
	for key, c := range q.clients {
		if want := count[key]; c.held != want.held || c.waiting != want.waiting {
			t.Fatalf("found client %d with %d slots and %d places, expected %d and %d", key, c.held, c.waiting, want.held, want.waiting)
		}
	}
}
