package lock

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"go.uber.org/zap"
)

// A connection joins at the instant at which the lock is shut down. It is refused, or the
// shutdown waits for its end.
func TestShutDownMissesNoConnection(t *testing.T) {
	for range 30 {
		l := &Lock{queue: queue.New(queue.Bounds{Limit: 1, MaxWaiting: queue.Unlimited}), record: record.New()}
		l.refusals.Tell = func(int) {}
		l.ctx, l.cancel = context.WithCancel(context.Background())
		drain := caddy.Duration(time.Hour)
		c := &Config{lock: l, settings: Settings{Drain: &drain}}
		c.logTo(zap.NewNop())
		l.current.Store(c)

		// The shutdown and the connection queue up for the mutex, in this order. A mutex for
		// which goroutines have waited for more than 1 ms is handed from one to the next, so
		// the connection comes after the first thing that the shutdown asks of the queue.
		release := l.queue.Hold()
		over, missed := make(chan struct{}), false
		var both sync.WaitGroup
		both.Go(func() {
			defer close(over)
			l.shutDown()
		})
		time.Sleep(3 * time.Millisecond)
		both.Go(func() {
			p := new(queue.Waiter)
			if holds, _ := l.queue.Join(p, time.Now()); !holds {
				return
			}
			select {
			case <-over:
				missed = true
			case <-time.After(20 * time.Millisecond):
			}
			l.queue.Release(p, time.Now())
		})
		time.Sleep(3 * time.Millisecond)
		release()
		release = l.queue.Hold() // before a waiter is awake: that is what makes it a handing on
		time.Sleep(time.Millisecond)
		release()
		both.Wait()
		if missed {
			t.Fatal("found the shutdown over while a connection had a slot, expected it to wait")
		}
	}
}
