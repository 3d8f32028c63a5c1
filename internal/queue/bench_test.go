package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// What a connection that need not wait pays, beside the semaphore that Go programs
// would use instead: benchstat -col /impl.
func BenchmarkUncontended(b *testing.B) {
	now := time.Now()
	b.Run("impl=semaphore", func(b *testing.B) {
		s := semaphore.NewWeighted(1)
		ctx, cancel := context.WithCancel(context.Background()) // else one could not leave the line
		defer cancel()
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Acquire(ctx, 1); err != nil {
				b.Fatal(err)
			}
			s.Release(1)
		}
	})
	b.Run("impl=queue", func(b *testing.B) {
		q, p := New(Bounds{Limit: 1, MaxWaiting: Unlimited}), new(Waiter)
		b.ReportAllocs()
		for b.Loop() {
			*p = Waiter{}
			if holds, err := q.Join(p, now); !holds {
				b.Fatal(err)
			}
			q.Release(p, now)
		}
	})
}

var lineLengths = []int{10, 1_000, 100_000, 1_000_000}

// The cost of a hand-off, with one new waiter for each holder that is done. It does not depend on
// the length of the line, the number of priorities in it, or the number of clients. Every other new
// waiter is of a client that holds a slot: with a bound of one slot, it may not go on before that
// slot is released, and other waiters have come behind it by then.
func BenchmarkHandOff(b *testing.B) {
	for _, c := range []struct {
		name       string
		priorities int
		bounds     Bounds
	}{
		{"plain", 1, Bounds{Limit: 2}},
		{"priorities", 8, Bounds{Limit: 2}},
		{"ageing", 8, Bounds{Limit: 2, PriorityAge: time.Second}},
		{"clients", 1, Bounds{Limit: 2, PerClient: 1, WaitingPerClient: 2}},
		{"all", 8, Bounds{Limit: 2, PerClient: 1, WaitingPerClient: 2, PriorityAge: time.Second}},
	} {
		for _, n := range lineLengths {
			b.Run(fmt.Sprintf("line=%s/waiters=%d", c.name, n), func(b *testing.B) {
				q, places, now := fullLine(n, c.bounds, c.priorities)
				first, second, spare := &places[0], &places[1], new(Waiter)
				b.ReportAllocs()
				for i := len(places); b.Loop(); i++ {
					*spare = Waiter{Client: ClientKey(i + 1), Priority: i % c.priorities}
					if i%2 == 0 {
						spare.Client = second.Client
					}
					if holds, err := q.Join(spare, now); holds || err != nil {
						b.Fatalf("found %t, %v, expected to stand in line", holds, err)
					}
					first, second, spare = second, q.Release(first, now), first
				}
			})
		}
	}
}

// The cost of leaving the line from its middle, with one new waiter for each that leaves. It does
// not depend on the length of the line.
func BenchmarkLeaveMiddle(b *testing.B) {
	for _, n := range lineLengths {
		b.Run(fmt.Sprintf("waiters=%d", n), func(b *testing.B) {
			q, places, now := fullLine(n, Bounds{Limit: 1}, 1)
			// The front half never moves, so the first waiter of the back half stands in the
			// middle.
			back := places[1+n/2:]
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				p := &back[i]
				if !q.Leave(p) {
					b.Fatal("found no waiter in the middle of the line")
				}
				*p = Waiter{}
				if holds, err := q.Join(p, now); holds || err != nil {
					b.Fatalf("found %t, %v, expected to stand in line", holds, err)
				}
				if i++; i == len(back) {
					i = 0
				}
			}
		})
	}
}

// The cost of Expel from the middle of the line, with one new waiter for each. It grows with the
// line, but Expel sorts and allocates nothing.
func BenchmarkExpelMiddle(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("waiters=%d", n), func(b *testing.B) {
			q, places, now := fullLine(n, Bounds{Limit: 1}, 8)
			p := &places[n/2]
			b.ReportAllocs()
			for b.Loop() {
				if found, waited := q.Expel(p.ID); found != p || !waited {
					b.Fatalf("found %v, %t, expected the one in the middle of the line", found, waited)
				}
				*p = Waiter{Priority: p.Priority}
				_, _ = q.Join(p, now)
			}
		})
	}
}

// fullLine returns a queue with b.Limit holders and n waiters: the first and the others of the
// returned slice, in this order. Each has a client of its own, and the priorities take turns.
func fullLine(n int, b Bounds, priorities int) (*Queue, []Waiter, time.Time) {
	b.MaxWaiting = Unlimited
	q, places, now := New(b), make([]Waiter, b.Limit+n), time.Now()
	for i := range places {
		places[i].Client, places[i].Priority = ClientKey(i+1), i%priorities
		_, _ = q.Join(&places[i], now)
	}
	return q, places, now
}
