package tcplock

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
		q, p := newQueue(1, unlimited), new(place)
		b.ReportAllocs()
		for b.Loop() {
			*p = place{}
			if holds, err := q.Join(p, now); !holds {
				b.Fatal(err)
			}
			q.Release(p, now)
		}
	})
}

var lineLengths = []int{10, 1_000, 100_000, 1_000_000}

// What it costs to hand a slot on, with one who joins for each that is done: the same
// whatever the length of the line.
func BenchmarkHandOff(b *testing.B) {
	for _, n := range lineLengths {
		b.Run(fmt.Sprintf("waiting=%d", n), func(b *testing.B) {
			q, places, now := fullLine(n)
			holder := &places[0]
			b.ReportAllocs()
			for b.Loop() {
				next := q.Release(holder, now)
				*holder = place{}
				if holds, err := q.Join(holder, now); holds || err != nil {
					b.Fatalf("found %t, %v, expected to stand in line", holds, err)
				}
				holder = next
			}
		})
	}
}

// What it costs to leave the line from its middle, with one who joins for each that
// leaves: the same whatever the length of the line.
func BenchmarkLeaveMiddle(b *testing.B) {
	for _, n := range lineLengths {
		b.Run(fmt.Sprintf("waiting=%d", n), func(b *testing.B) {
			q, places, now := fullLine(n)
			// The front half never moves, so whoever is the first of the back
			// half stands in the middle.
			back := places[1+n/2:]
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				p := &back[i]
				if !q.Leave(p) {
					b.Fatal("found nobody in the middle of the line")
				}
				*p = place{}
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

// fullLine returns a queue with one slot, which places[0] holds, and n waiters, which
// are the rest of places, in this order.
func fullLine(n int) (*queue, []place, time.Time) {
	q, places, now := newQueue(1, unlimited), make([]place, n+1), time.Now()
	for i := range places {
		_, _ = q.Join(&places[i], now)
	}
	return q, places, now
}
