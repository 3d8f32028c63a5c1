package tcplock

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
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
		q, p := newQueue(bounds{limit: 1, maxWaiting: unlimited}), new(place)
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
// whatever the length of the line, the number of priorities in it and that of clients. Every
// other one who joins is of a client that holds a slot: with a bound of one slot it may
// not go on before that is given back, and others have come behind it then.
func BenchmarkHandOff(b *testing.B) {
	for _, c := range []struct {
		name       string
		priorities int
		bounds     bounds
	}{
		{"plain", 1, bounds{limit: 2}},
		{"priorities", 8, bounds{limit: 2}},
		{"ageing", 8, bounds{limit: 2, priorityAge: time.Second}},
		{"clients", 1, bounds{limit: 2, perClient: 1, waitingPerClient: 2}},
		{"all", 8, bounds{limit: 2, perClient: 1, waitingPerClient: 2, priorityAge: time.Second}},
	} {
		for _, n := range lineLengths {
			b.Run(fmt.Sprintf("line=%s/waiters=%d", c.name, n), func(b *testing.B) {
				q, places, now := fullLine(n, c.bounds, c.priorities)
				first, second, spare := &places[0], &places[1], new(place)
				b.ReportAllocs()
				for i := len(places); b.Loop(); i++ {
					*spare = place{client: clientKey(i + 1), priority: i % c.priorities}
					if i%2 == 0 {
						spare.client = second.client
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

// What it costs to leave the line from its middle, with one who joins for each that
// leaves: the same whatever the length of the line.
func BenchmarkLeaveMiddle(b *testing.B) {
	for _, n := range lineLengths {
		b.Run(fmt.Sprintf("waiters=%d", n), func(b *testing.B) {
			q, places, now := fullLine(n, bounds{limit: 1}, 1)
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

// What it costs to give a slot back at a lock with an idle hook and bounds for each client:
// the same whatever the number of clients in line.
func BenchmarkGiveBackWithIdleHook(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			l := enterLock(b.Name())
			defer l.exit()
			c := &claim{lock: l, defined: true, hooks: map[string][]*Hook{onIdle: {{On: onIdle, IdleFor: caddy.Duration(time.Hour)}}}}
			c.logTo(zap.NewNop())
			l.push(c)
			defer l.pop(c)
			var places []place
			l.queue, places, _ = fullLine(n, bounds{limit: 1, perClient: 1, waitingPerClient: 2}, 1)
			first, next, spare := &places[0], 1, new(place)
			b.ReportAllocs()
			for i := len(places); b.Loop(); i++ {
				*spare = place{client: clientKey(i + 1)}
				if holds, err := l.queue.Join(spare, time.Now()); holds || err != nil {
					b.Fatalf("found %t, %v, expected to stand in line", holds, err)
				}
				l.giveBack(first)
				if next < len(places) {
					first, spare, next = &places[next], first, next+1
				}
				if next == len(places) { // all have held; the line is those who joined since
					b.StopTimer()
					l.queue, places, _ = fullLine(n, bounds{limit: 1, perClient: 1, waitingPerClient: 2}, 1)
					first, next, spare = &places[0], 1, new(place)
					b.StartTimer()
				}
			}
		})
	}
}

// What it costs to throw a connection out of the middle of the line, with one that joins
// for it. It is as long as the line, but sorts and allocates nothing.
func BenchmarkExpelMiddle(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("waiters=%d", n), func(b *testing.B) {
			q, places, now := fullLine(n, bounds{limit: 1}, 8)
			p := &places[n/2]
			b.ReportAllocs()
			for b.Loop() {
				if found, waited := q.Expel(p.seq); found != p || !waited {
					b.Fatalf("found %v, %t, expected the one in the middle of the line", found, waited)
				}
				*p = place{priority: p.priority}
				_, _ = q.Join(p, now)
			}
		})
	}
}

// fullLine returns a queue whose slots the first of places hold, and n waiters, which are
// the rest of places, in this order. Each is of a client of its own, and they take turns
// with the priorities.
func fullLine(n int, b bounds, priorities int) (*queue, []place, time.Time) {
	b.maxWaiting = unlimited
	q, places, now := newQueue(b), make([]place, b.limit+n), time.Now()
	for i := range places {
		places[i].client, places[i].priority = clientKey(i+1), i%priorities
		_, _ = q.Join(&places[i], now)
	}
	return q, places, now
}
