package page

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

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

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
	play(t, func(s *stage) {
		s.load(lock.Settings{MaxWaiting: new(1)})
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
	watched(t, func(s *stage, h *hub) {
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
			other, leave := otherLock(t, "other")
			end := gather(other, 2)
			time.Sleep(time.Duration(want) * time.Second)
			if got := past("other"); len(got) != want || *got[0] != 1 {
				t.Errorf("found %d samples of lock %d, expected %d", len(got), i, want)
			}
			end()
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

// A viewer gets the locks at once, and then those that change. Time that passes is no change.
// Bytes that flow are updated once a second.
func TestStatusUpdates(t *testing.T) {
	watched(t, func(s *stage, h *hub) {
		s.comes("a", 20*time.Second)
		synctest.Wait()
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
		wait("nothing happens")
		wait("nothing happens")
		wait("nothing happens")
		wait("a second is over", "sample")
		s.sends("a")
		wait("a byte")
		s.comes("c", 0)
		synctest.Wait()
		wait("one is refused", "locks")
		s.sends("a")
		wait("a byte")
		wait("bytes, and a second is over", "locks", "sample")
		wait("nothing happens")
		s.lock.Pause(0)
		wait("paused", "locks")
		s.lock.Resume()
		_, leave := otherLock(t, "other")
		wait("another lock", "locks")
		leave()
		time.Sleep(pollInterval)
		if told := v.updates(t, h)["locks"]; !strings.Contains(told, `"names":["stage"],"locks":[]`) {
			t.Errorf("found %s, expected the other lock to be gone", told)
		}
	})
}

// What a viewer gets of one lock is bounded. Of a thousand locks it gets less of each.
func TestStatusUpdatesBounded(t *testing.T) {
	play(t, func(s *stage) {
		s.load(lock.Settings{Slots: 2 * shownSlots})
		defer gather(s.config, 10*shownSlots)()
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
			_, leave := otherLock(t, fmt.Sprint("lock", i))
			defer leave()
		}
		time.Sleep(pollInterval + pollInterval/2)
		if l := seen(); len(l.Waiters) != waitersTogether/1001 {
			t.Errorf("found %d waiters with 1001 locks, expected %d", len(l.Waiters), waitersTogether/1001)
		}
	})
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
	watched(t, func(s *stage, h *hub) {
		ctx, end := context.WithCancel(context.Background())
		p := &Page{hub: h, ctx: ctx}
		gone := make(chan time.Duration, 1)
		go func() {
			_ = p.stream(&stuckWriter{ResponseRecorder: httptest.NewRecorder(), room: 2000}, httptest.NewRequest(http.MethodGet, "/", nil))
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
		if err := p.stream(&stuckWriter{ResponseRecorder: httptest.NewRecorder(), room: 1 << 20}, httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkStatusLook measures a poll with a viewer: of 1000 locks that all change, and of one with
// 100000 waiters.
func BenchmarkStatusLook(b *testing.B) {
	for _, c := range []struct{ locks, each int }{{1000, 10}, {1, 100_000}} {
		b.Run(fmt.Sprintf("%d locks, %d each", c.locks, c.each), func(b *testing.B) {
			defer inside.Process.SetDescriptorLimit(1 << 20)()
			var all []*lock.Lock
			for i := range c.locks {
				l, config, leave := newLock(b, fmt.Sprint("listen", i), fmt.Sprint("lock", i), lock.Settings{})
				defer leave()
				defer gather(config, c.each)()
				all = append(all, l)
			}
			h := &hub{snapshots: make(map[string]*snapshot), changed: make(chan struct{})}
			v := h.enter()
			var message [][]byte
			h.updates(v)
			for b.Loop() {
				for _, l := range all {
					l.Pause(0) // each time anew
				}
				h.tick(time.Now(), true)
				message, _ = h.updates(v)
			}
			b.ReportMetric(float64(len(bytes.Join(message, nil))), "B/message")
		})
	}
}

// The first message to a viewer may be large. All viewers share it, without a copy.
func TestStatusFirstMessageIsShared(t *testing.T) {
	for i := range 100 {
		l, leave := otherLock(t, fmt.Sprint("lock", i))
		defer leave()
		defer gather(l, 50)()
	}
	h := &hub{snapshots: make(map[string]*snapshot), changed: make(chan struct{}), histories: make(map[*lock.Lock]*history)}
	v := h.enter()
	defer h.leave()
	large := func() map[*byte]int {
		message, _ := h.updates(new(viewer))
		parts := make(map[*byte]int)
		for _, part := range message {
			if len(part) > 1000 {
				parts[&part[0]] = len(part)
			}
		}
		return parts
	}
	_, _ = h.updates(v)
	first, second := large(), large()
	if len(first) < 100 {
		t.Fatalf("found %d large parts, expected one for each of 100 locks", len(first))
	}
	for part, n := range second {
		if first[part] != n {
			t.Fatal("found a part of the first message that two viewers do not share")
		}
	}
}

// What the status page has of the last minutes goes on under the new name.
func TestStatusHistoryOfRenamedLock(t *testing.T) {
	watched(t, func(s *stage, h *hub) {
		s.until(500 * time.Millisecond)
		s.comes("a", 20*time.Second)
		synctest.Wait()
		s.comes("b", 0)
		s.until(5500 * time.Millisecond)
		s.rename("new", lock.Settings{})
		s.until(9500 * time.Millisecond)
		var told struct {
			Locks map[string]struct{ Waiting []*float64 }
		}
		if err := json.Unmarshal([]byte(new(viewer).updates(t, h)["history"]), &told); err != nil {
			t.Fatal(err)
		}
		waiting := told.Locks["new"].Waiting
		if len(told.Locks) != 1 || len(waiting) != 10 || *waiting[0] != 0 || *waiting[1] != 1 || *waiting[9] != 1 {
			t.Errorf("found %v, expected 10 samples of lock new alone, all but the first with one in line", told.Locks)
		}
	})
}
