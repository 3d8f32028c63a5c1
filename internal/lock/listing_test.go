package lock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"go.uber.org/zap"
)

// Requests that come at the same time share one snapshot. It is not older than what their clients
// have done before.
func TestListingIsShared(t *testing.T) {
	l, leave := otherLock("listed")
	defer leave()
	locks.listing.taking.Lock() // a snapshot is under way
	const many = 50
	answers := make([][]byte, many)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() { answers[i], _ = StatusJSON(Listed{Waiters: 10}) })
	}
	testkit.Poll(t, "one takes the snapshot, the others wait for it", func() bool {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		waiting := 0
		for stack := range bytes.SplitSeq(stacks, []byte("\n\n")) {
			if bytes.Contains(stack, []byte("/lock.StatusJSON(")) && bytes.Contains(stack, []byte("sync.(*WaitGroup).Wait(")) {
				waiting++
			}
		}
		return waiting == many-1
	})
	l.record.CountEnd(status.Served)
	locks.listing.taking.Unlock()
	asking.Wait()
	for _, answer := range answers {
		if &answer[0] != &answers[0][0] {
			t.Fatal("found more than one snapshot, expected one for all")
		}
	}
	if !bytes.Contains(answers[0], []byte(`"served":1`)) {
		t.Errorf("found %s, expected one served before the snapshot", answers[0])
	}
	l.record.CountEnd(status.Served)
	if answer, err := StatusJSON(Listed{Waiters: 10}); err != nil || !bytes.Contains(answer, []byte(`"served":2`)) || !json.Valid(answer) {
		t.Errorf("found %s, %v, expected two served", answer, err)
	}
	if one, err := StatusJSON(Listed{Lock: l, Waiters: 10}); err != nil || !strings.HasPrefix(string(one), `{"name":"listed"`) {
		t.Errorf("found %s, %v, expected the one lock", one, err)
	}
}

// How long a hand-off takes while so many clients list the locks all the time.
func BenchmarkHandOffWhileListed(b *testing.B) {
	for _, asking := range []int{0, 1, 100} {
		b.Run(fmt.Sprintf("asking=%d", asking), func(b *testing.B) {
			l, leave := otherLock("listed")
			defer leave()
			gather(l, 10_000)
			stop := make(chan struct{})
			var all sync.WaitGroup
			for range asking {
				all.Go(func() {
					for !overAlready(stop) {
						_, _ = StatusJSON(Listed{Waiters: DefaultWaiters})
					}
				})
			}
			var took []time.Duration
			for b.Loop() {
				_, holders, _ := l.queue.Snapshot(0)
				p := &holders[0].Owner.(*Waiter).queued
				start := time.Now()
				l.queue.Release(p, start)
				took = append(took, time.Since(start))
				time.Sleep(100 * time.Microsecond) // real clients do not come without a pause either
				*p = queue.Waiter{Owner: p.Owner}
				_, _ = l.queue.Join(p, time.Now())
			}
			close(stop)
			all.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			b.ReportMetric(float64(took[len(took)*999/1000].Nanoseconds()), "p999-ns")
		})
	}
}

func overAlready(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// otherLock returns a lock without settings.
func otherLock(name string) (l *Lock, leave func()) {
	l = locks.enter(name)
	c := &Config{lock: l, started: make(chan struct{}), defined: true}
	c.logTo(zap.NewNop())
	l.activate(c)
	return l, func() {
		l.deactivate(c)
		l.Exit()
	}
}

// gather puts n connections into the queue of a lock.
func gather(l *Lock, n int) {
	for i := range n {
		w := &Waiter{lock: l, conn: &client.Conn{Address: fmt.Sprintf("192.0.2.1:%d", i)}}
		w.queued.Owner = w
		_, _ = l.queue.Join(&w.queued, time.Now())
	}
}
