package tcplock

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// watched plays a script with a hub that polls the stage's lock.
func watched(t *testing.T, script func(s *hookStage, h *hub)) {
	t.Helper()
	playHooks(t, func(s *hookStage) {
		s.load(Settings{MaxWaiting: new(1)})
		h := newHub()
		defer func() { _ = h.Destruct() }()
		script(s, h)
	})
}

// updates returns the events that v gets, by name.
func (v *viewer) updates(t *testing.T, h *hub) map[string]string {
	t.Helper()
	message, _ := h.updates(v)
	told := make(map[string]string)
	for event := range strings.SplitSeq(strings.TrimSpace(string(bytes.Join(message, nil))), "\n\n") {
		if name, data, ok := strings.Cut(strings.TrimPrefix(event, "event: "), "\ndata: "); ok {
			if !json.Valid([]byte(data)) {
				t.Errorf("%s: found no JSON: %s", name, data)
			}
			told[name] = data
		}
	}
	return told
}

// a comes first, b waits 3 seconds for its end, c is refused meanwhile. The history has each
// second of that, and nothing from before the hub.
func TestStatusHistory(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(Settings{MaxWaiting: new(1)})
		s.comes("before", 0)
		s.until(time.Second)
		h := newHub()
		defer func() { _ = h.Destruct() }()
		at := func(ms int) { s.until(time.Second + time.Duration(ms)*time.Millisecond) }
		at(500)
		s.comes("a", 4*time.Second)
		at(1500)
		s.comes("b", time.Second)
		at(2500)
		s.comes("c", 0)
		at(7100)
		const want = `"n":8,"locks":{"stage":{` +
			`"ended":[0,0,0,0,0,1,1,0],` +
			`"p50":[null,0,null,null,null,3,null,null],` +
			`"p90":[null,0,null,null,null,3,null,null],` +
			`"refused":[0,0,0,1,0,0,0,0],` +
			`"waiting":[0,0,1,1,1,0,0,0]}}}`
		if got := new(viewer).updates(t, h)["history"]; !strings.HasSuffix(got, want) {
			t.Errorf("found    %s\nexpected %s", got, want)
		}
	})
}

// Samples are kept for five minutes. Those of a lock that is gone are dropped, also if a new lock
// has its name.
func TestStatusHistoryForgets(t *testing.T) {
	watched(t, func(s *hookStage, h *hub) {
		past := func(lock string) []*float64 {
			t.Helper()
			var told struct {
				Locks map[string]struct{ Waiting []*float64 }
			}
			if err := json.Unmarshal([]byte(new(viewer).updates(t, h)["history"]), &told); err != nil {
				t.Fatal(err)
			}
			return told.Locks[lock].Waiting
		}
		s.until(500 * time.Millisecond)
		s.comes("a", 200*time.Second)
		synctest.Wait()
		s.comes("b", 0)
		s.until(400*time.Second + 100*time.Millisecond)
		if got := past("stage"); len(got) != historyLength || *got[0] != 1 || *got[historyLength-1] != 0 {
			t.Errorf("found %d samples, expected the last %d, the first one with a waiter", len(got), historyLength)
		}
		s.until(600*time.Second + 100*time.Millisecond)
		if got := past("stage"); got != nil {
			t.Errorf("found %d samples, expected none: no connection waited in the last %d", len(got), historyLength)
		}

		for i, want := range []int{3, 2} {
			other, leave := otherLock("other")
			for range 2 {
				other.queue.Join(&queue.Waiter{Owner: &waiter{conn: &client.Conn{Address: "x"}}}, time.Now())
			}
			time.Sleep(time.Duration(want) * time.Second)
			if got := past("other"); len(got) != want || *got[0] != 1 {
				t.Errorf("found %d samples of lock %d, expected %d", len(got), i, want)
			}
			leave()
			if i == 0 {
				continue // it is back before the next sample
			}
			time.Sleep(time.Second)
			if got := past("other"); got != nil {
				t.Errorf("found %d samples of a lock that is gone", len(got))
			}
		}
	})
}

// otherLock returns a lock beside the stage's.
func otherLock(name string) (l *lock, leave func()) {
	l = enterLock(name)
	c := &config{lock: l, defined: true}
	c.logTo(zap.NewNop())
	l.activate(c)
	return l, func() {
		l.deactivate(c)
		l.exit()
	}
}

// A viewer gets the locks at once, and then those that change. Time that passes is no change.
// Bytes that flow are updated once a second.
func TestStatusUpdates(t *testing.T) {
	watched(t, func(s *hookStage, h *hub) {
		s.comes("a", 20*time.Second)
		s.comes("b", 20*time.Second)
		s.until(10*time.Second + 100*time.Millisecond)
		v := h.enter()
		defer h.leave()
		told := v.updates(t, h)
		if told["history"] == "" || !strings.Contains(told["locks"], `"names":["stage"]`) || !strings.Contains(told["locks"], `"client":"b"`) {
			t.Errorf("found %v, expected history and lock", told)
		}
		wait := func(what string, want ...string) {
			t.Helper()
			time.Sleep(pollInterval)
			told := v.updates(t, h)
			for _, event := range want {
				if told[event] == "" {
					t.Errorf("%s: found %v, expected %s", what, told, event)
				}
			}
			if len(told) != len(want) {
				t.Errorf("%s: found %v, expected %v", what, told, want)
			}
		}
		bytes := &s.holder(t).conn.Traffic.In
		wait("nothing happens")
		wait("nothing happens")
		wait("nothing happens")
		wait("a second is over", "sample")
		bytes.Add(1)
		wait("a byte")
		s.comes("c", 0)
		synctest.Wait()
		wait("one is refused", "locks")
		bytes.Add(1)
		wait("a byte")
		wait("bytes, and a second is over", "locks", "sample")
		wait("nothing happens")
		s.lock.pause(0)
		wait("paused", "locks")
		s.lock.resume()
		_, leave := otherLock("other")
		wait("another lock", "locks")
		leave()
		time.Sleep(pollInterval)
		if told := v.updates(t, h)["locks"]; !strings.Contains(told, `"names":["stage"],"locks":[]`) {
			t.Errorf("found %s, expected the other lock to be gone", told)
		}
	})
}

// holder returns the stage's only holder.
func (s *hookStage) holder(t *testing.T) *waiter {
	_, holders, _ := s.lock.queue.Snapshot(0)
	if len(holders) != 1 {
		t.Fatalf("found %d holders, expected one", len(holders))
	}
	return holders[0].Owner.(*waiter)
}

// What a viewer gets of one lock is bounded. Of a thousand locks it gets less of each.
func TestStatusUpdatesBounded(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(Settings{Slots: 2 * shownSlots})
		gather(s.lock, 10*shownSlots)
		h := newHub()
		defer func() { _ = h.Destruct() }()
		v := h.enter()
		defer h.leave()
		seen := func() (lock status.Lock) {
			t.Helper()
			var told struct{ Locks []status.Lock }
			if err := json.Unmarshal([]byte(v.updates(t, h)["locks"]), &told); err != nil {
				t.Fatal(err)
			}
			for _, l := range told.Locks {
				if l.Name == "stage" {
					return l
				}
			}
			t.Fatal("found no lock stage")
			return lock
		}
		if l := seen(); l.Held != 2*shownSlots || l.Waiting != 8*shownSlots || len(l.Holders) != shownSlots || len(l.Waiters) != mostWaiters {
			t.Errorf("found %d holders and %d waiters of %d and %d, expected %d and %d", len(l.Holders), len(l.Waiters), l.Held, l.Waiting, shownSlots, mostWaiters)
		}
		for i := range 1000 {
			_, leave := otherLock(fmt.Sprint("lock", i))
			defer leave()
		}
		time.Sleep(pollInterval + pollInterval/2)
		if l := seen(); len(l.Waiters) != waitersTogether/1001 {
			t.Errorf("found %d waiters with 1001 locks, expected %d", len(l.Waiters), waitersTogether/1001)
		}
	})
}

// gather puts n connections into the queue of a lock.
func gather(l *lock, n int) {
	for i := range n {
		w := &waiter{lock: l, conn: &client.Conn{Address: fmt.Sprintf("192.0.2.1:%d", i)}}
		w.place.Owner = w
		_, _ = l.queue.Join(&w.place, time.Now())
	}
}

// stuckWriter is a viewer that takes a few bytes and then no more.
type stuckWriter struct {
	*httptest.ResponseRecorder
	room     int
	deadline time.Time
}

func (w *stuckWriter) SetWriteDeadline(t time.Time) error {
	w.deadline = t
	return nil
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room >= 0 {
		return len(p), nil
	}
	time.Sleep(time.Until(w.deadline))
	return 0, os.ErrDeadlineExceeded
}

// A viewer that takes no more bytes does not delay the others, and is dropped in the end. A stream
// ends with its config.
func TestStatusStuckViewer(t *testing.T) {
	watched(t, func(s *hookStage, h *hub) {
		ctx, end := context.WithCancel(context.Background())
		page := &StatusPage{hub: h, ctx: ctx}
		gone := make(chan time.Duration, 1)
		go func() {
			_ = page.stream(&stuckWriter{ResponseRecorder: httptest.NewRecorder(), room: 2000}, httptest.NewRequest(http.MethodGet, "/", nil))
			gone <- time.Since(s.start)
		}()
		v := h.enter()
		defer h.leave()
		v.updates(t, h)
		for n := 1; n < 60; n++ {
			s.until(time.Duration(n)*time.Second + 100*time.Millisecond)
			if told := v.updates(t, h); told["sample"] == "" {
				t.Fatalf("second %d: found %v, expected a sample", n, told)
			}
		}
		select {
		case after := <-gone:
			if after < viewerPatience || after > 50*time.Second {
				t.Errorf("the stuck viewer was dropped after %s", after)
			}
		default:
			t.Error("the stuck viewer is still there")
		}
		if h.viewers != 1 {
			t.Errorf("found %d viewers, expected 1", h.viewers)
		}

		end()
		if err := page.stream(&stuckWriter{ResponseRecorder: httptest.NewRecorder(), room: 1 << 20}, httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkStatusLook measures a poll with a viewer: of 1000 locks that all change, and of one with
// 100000 waiters.
func BenchmarkStatusLook(b *testing.B) {
	for _, c := range []struct{ locks, each int }{{1000, 10}, {1, 100_000}} {
		b.Run(fmt.Sprintf("%d locks, %d each", c.locks, c.each), func(b *testing.B) {
			var all []*lock
			for i := range c.locks {
				l, leave := otherLock(fmt.Sprint("lock", i))
				defer leave()
				gather(l, c.each)
				all = append(all, l)
			}
			h := &hub{snapshots: make(map[string]*snapshot), changed: make(chan struct{})}
			v := h.enter()
			var message [][]byte
			h.updates(v)
			for b.Loop() {
				for _, l := range all {
					l.record.CountEnd(status.Served)
				}
				h.tick(time.Now(), true)
				message, _ = h.updates(v)
			}
			b.ReportMetric(float64(len(bytes.Join(message, nil))), "B/message")
		})
	}
}
