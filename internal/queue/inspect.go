package queue

import "slices"

// What the tests of other packages look at. The program does not use it.

// Bounds returns the bounds that are in force.
func (q *Queue) Bounds() Bounds {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bounds
}

// Free returns the slots that are free and in service.
func (q *Queue) Free() (free []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := q.slots[0].nextFree; i != 0; i = q.slots[i].nextFree {
		free = append(free, i)
	}
	slices.Sort(free)
	return free
}

// Clients returns how many clients have a waiter, where clients have bounds.
func (q *Queue) Clients() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.clients)
}

// Hold keeps all other operations waiting until release is called.
func (q *Queue) Hold() (release func()) {
	q.mu.Lock()
	return q.mu.Unlock
}
