package queue

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// The queue and the semaphore with goroutines that wait, as many as a line has: benchstat -col
// /impl. The queue wakes no goroutine itself, so each of its waiters waits on a channel, as the
// semaphore's do. A million goroutines need more than 3 GB.

// contended is one slot and the waiters for it.
type contended interface {
	// acquire is called by waiter i. It waits for the slot, or until it shall give up.
	acquire(ctx context.Context, i int) error
	// release is called by the benchmark, for the present holder.
	release()
}

type contendedSemaphore struct{ *semaphore.Weighted }

func (s contendedSemaphore) acquire(ctx context.Context, _ int) error { return s.Acquire(ctx, 1) }
func (s contendedSemaphore) release()                                 { s.Release(1) }

type contendedQueue struct {
	*Queue
	now     time.Time
	waiters []queueWaiter
	holder  *Waiter
}

// queueWaiter joins anew before its last slot has been released.
type queueWaiter struct {
	places [2]Waiter
	turn   int
	woken  chan struct{}
}

func newContendedQueue(waiters int) *contendedQueue {
	q := &contendedQueue{Queue: New(Bounds{Limit: 1, MaxWaiting: Unlimited}), now: time.Now(), waiters: make([]queueWaiter, waiters)}
	for i := range q.waiters {
		q.waiters[i].woken = make(chan struct{}, 1)
	}
	return q
}

func (q *contendedQueue) acquire(ctx context.Context, i int) error {
	w := &q.waiters[i]
	p := &w.places[w.turn]
	*p = Waiter{Owner: w}
	w.turn = 1 - w.turn
	if holds, err := q.Join(p, q.now); holds || err != nil {
		q.holder = p
		return err
	}
	select {
	case <-w.woken:
	case <-ctx.Done():
		if q.Leave(p) {
			return ctx.Err()
		}
		<-w.woken
	}
	return nil
}

func (q *contendedQueue) release() {
	if q.holder = q.Release(q.holder, q.now); q.holder != nil {
		q.holder.Owner.(*queueWaiter).woken <- struct{}{}
	}
}

// line is a slot that is taken, and the goroutines that wait for it.
type benchLine struct {
	contended
	giveUp   []giveUp // one for each waiter
	acquired chan int // has the slot now, and waits again already
	left     chan int // has given up, and waits again already
	coming   atomic.Int64
	over     atomic.Bool
	all      sync.WaitGroup
}

// GiveUp is a context that costs no more than its channel.
type giveUp chan struct{}

func (g giveUp) Deadline() (time.Time, bool) { return time.Time{}, false }
func (g giveUp) Done() <-chan struct{}       { return g }
func (g giveUp) Value(any) any               { return nil }
func (g giveUp) Err() error {
	select {
	case <-g:
		return context.Canceled
	default:
		return nil
	}
}

func newBenchLine(b *testing.B, c contended, waiters int) *benchLine {
	l := &benchLine{contended: c, giveUp: make([]giveUp, waiters), acquired: make(chan int), left: make(chan int)}
	for i := range l.giveUp {
		l.giveUp[i] = make(giveUp)
	}
	if err := c.acquire(context.Background(), waiters); err != nil {
		b.Fatal(err)
	}
	for i := range waiters {
		l.all.Go(func() { l.wait(i) })
		// A mutex that a million wait for hands itself on at a crawl.
		for i%1000 == 0 && l.coming.Load() < int64(i) {
			time.Sleep(100 * time.Microsecond)
		}
	}
	time.Sleep(100 * time.Millisecond) // for the last of them to be in line
	l.release()                        // which waits for all that still want the mutex
	<-l.acquired
	return l
}

func (l *benchLine) wait(i int) {
	l.coming.Add(1)
	for {
		err := l.acquire(l.giveUp[i], i)
		switch {
		case l.over.Load():
			return
		case err == nil:
			l.acquired <- i
		default:
			l.giveUp[i] = make(giveUp)
			l.left <- i
		}
	}
}

func (l *benchLine) end() {
	l.over.Store(true)
	for _, g := range l.giveUp {
		close(g)
	}
	l.all.Wait()
}

func benchmarkContended(b *testing.B, run func(b *testing.B, l *benchLine)) {
	for _, n := range lineLengths {
		for _, impl := range []struct {
			name string
			make func() contended
		}{
			{"semaphore", func() contended { return contendedSemaphore{semaphore.NewWeighted(1)} }},
			{"queue", func() contended { return newContendedQueue(n + 1) }},
		} {
			b.Run(fmt.Sprintf("impl=%s/waiters=%d", impl.name, n), func(b *testing.B) {
				l := newBenchLine(b, impl.make(), n)
				defer l.end()
				b.ReportAllocs()
				run(b, l)
			})
		}
	}
}

// The cost of a hand-off until the new holder's goroutine runs, with one new waiter for each holder
// that is done.
func BenchmarkContended(b *testing.B) {
	benchmarkContended(b, func(b *testing.B, l *benchLine) {
		for b.Loop() {
			l.release()
			<-l.acquired
		}
	})
}

// The cost of giving up in the middle of the line until the waiter's goroutine runs, with one new
// waiter for each that leaves.
func BenchmarkGiveUp(b *testing.B) {
	benchmarkContended(b, func(b *testing.B, l *benchLine) {
		// See BenchmarkLeaveMiddle.
		back := l.giveUp[len(l.giveUp)/2:]
		i := 0
		for b.Loop() {
			close(back[i])
			<-l.left
			if i++; i == len(back) {
				i = 0
			}
		}
	})
}
