package lock

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"go.uber.org/zap"
)

// What it costs to give a slot back at a lock with an idle hook and bounds for each client:
// the same whatever the number of clients in line.
func BenchmarkGiveBackWithIdleHook(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			l := locks.enter(b.Name())
			defer l.Exit()
			c := &Config{lock: l, started: make(chan struct{}), defined: true, hooks: map[string][]*hook.Hook{hook.Idle: {{On: hook.Idle, IdleFor: caddy.Duration(time.Hour)}}}}
			c.logTo(zap.NewNop())
			l.activate(c)
			defer l.deactivate(c)
			var places []queue.Waiter
			l.queue, places = lineOfClients(n)
			first, next, spare := &places[0], 1, new(queue.Waiter)
			b.ReportAllocs()
			for i := len(places); b.Loop(); i++ {
				*spare = queue.Waiter{Client: queue.ClientKey(i + 1)}
				if holds, err := l.queue.Join(spare, time.Now()); holds || err != nil {
					b.Fatalf("found %t, %v, expected to stand in line", holds, err)
				}
				l.release(first)
				if next < len(places) {
					first, spare, next = &places[next], first, next+1
				}
				if next == len(places) { // all have held; the line is those that joined since
					b.StopTimer()
					l.queue, places = lineOfClients(n)
					first, next, spare = &places[0], 1, new(queue.Waiter)
					b.StartTimer()
				}
			}
		})
	}
}

// lineOfClients returns a queue with one slot, its holder and n waiters, each of a client of its own.
func lineOfClients(n int) (*queue.Queue, []queue.Waiter) {
	q, all := queue.New(queue.Bounds{Limit: 1, MaxWaiting: queue.Unlimited, PerClient: 1, WaitingPerClient: 2}), make([]queue.Waiter, 1+n)
	for i := range all {
		all[i].Client = queue.ClientKey(i + 1)
		_, _ = q.Join(&all[i], time.Now())
	}
	return q, all
}
