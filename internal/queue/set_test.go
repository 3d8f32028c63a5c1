package queue

import (
	"testing"
	"time"
)

// Two waiters of a client stand aside, and one has come back into the line. Then another
// priority age makes the other one go first.
func TestSetPriorityAgeOfThoseAside(t *testing.T) {
	start := time.Now()
	b := Bounds{Limit: 3, MaxWaiting: Unlimited, PerClient: 2}
	q := New(b)
	join := func(priority int, after time.Duration) *Waiter {
		p := &Waiter{Client: 1, Priority: priority}
		if _, err := q.Join(p, start.Add(after)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	holder := join(0, 0)
	join(0, 0)
	early, late := join(0, time.Second), join(1, 100*time.Second)
	q.Pause()
	q.Release(holder, start.Add(101*time.Second)) // late comes back, since its priority is higher
	b.PriorityAge = time.Second
	q.Set(b, start.Add(102*time.Second))
	q.Resume(start.Add(103 * time.Second))
	if q.Load(early).State != Holding || q.Load(late).State != Waiting {
		t.Errorf("found the early one %d and the late one %d, expected that the early one holds a slot", q.Load(early).State, q.Load(late).State)
	}
}
