package tcplock

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// With every <n>, a release hook counts connections that reached the service. One that an
// activate hook refused does not count, and does not make the hook run either, unless the
// last run failed.
func TestReleaseCountsServedConnections(t *testing.T) {
	for _, test := range []struct {
		name  string
		fails map[int]error // runs of the release hook
		want  []uint64
	}{
		{"all runs succeed", nil, []uint64{3, 7}},
		{"first run fails", map[int]error{1: errStep}, []uint64{3, 4, 8}},
	} {
		t.Run(test.name, func(t *testing.T) {
			playHooks(t, func(s *hookStage) {
				var ran []uint64
				refused := map[int]error{1: errStep, 2: errStep, 4: errStep, 5: errStep}
				s.load(Settings{},
					s.hook(Hook{On: onActivate}, &fakeStep{name: "start", fails: refused}),
					s.hook(Hook{On: onRelease, Every: Every{Count: 2}},
						&fakeStep{name: "clean", fails: test.fails, does: func(m Moment) { ran = append(ran, m.Connection) }}))
				for range 8 {
					s.comes("client", sec)
					s.ended.Wait()
					synctest.Wait()
				}
				if !slices.Equal(ran, test.want) {
					t.Errorf("found the hook run for %d, expected %d", ran, test.want)
				}
			})
		})
	}
}

// A client that hold_timeout ends was at the service, even if the service never answered: it
// counts for the hooks of activate and release.
func TestWedgedConnectionsCount(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		var ran []uint64
		note := func(m Moment) { ran = append(ran, m.Connection) }
		s.load(Settings{HoldTimeout: caddy.Duration(sec)},
			s.hook(Hook{On: onActivate, Every: Every{Count: 2}}, &fakeStep{name: "start", does: note}),
			s.hook(Hook{On: onRelease, Every: Every{Count: 2}}, &fakeStep{name: "clean", does: note}))
		for range 3 {
			s.wedges("client", 10*sec)
			s.ended.Wait()
			synctest.Wait()
		}
		if want := []uint64{1, 1, 3, 3}; !slices.Equal(ran, want) {
			t.Errorf("found the hooks run for %d, expected %d", ran, want)
		}
	})
}

// A client that meets a worker that is down goes back in line, again and again. It counts
// once: when it has reached the worker.
func TestConnectionCountsOnceItReachesTheWorker(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(Settings{Workers: []string{"a:1"}},
			s.hook(Hook{On: onActivate, Every: Every{Count: 3}}, &fakeStep{name: "restart"}))
		s.down["a:1"] = true
		s.comes(guest{name: "w", stays: time.Second})
		s.until(8 * time.Second)
		s.let(func() { s.down["a:1"] = false })
		s.expect(`
			0s restart w
			0s w not at 1 a:1
			500ms w not at 1 a:1
			1.5s w not at 1 a:1
			3.5s w not at 1 a:1
			7.5s w not at 1 a:1
			15.5s w at 1 a:1`)
		for i, name := range []string{"x", "y", "z"} {
			s.until(time.Duration(30+5*i) * time.Second)
			s.comes(guest{name: name, stays: time.Second})
		}
		s.expect(`
			30s x at 1 a:1
			35s y at 1 a:1
			40s restart z
			40s z at 1 a:1`)
	})
}

// Two connections are counted, then the hook runs for a third. To take the first two back
// after that changes nothing: they belong to the count before the run.
func TestTakeBackAfterRun(t *testing.T) {
	s := new(Schedule)
	h := &Hook{On: onActivate, Every: Every{Count: 2}, key: "k"}
	due := func(want bool) Tally {
		t.Helper()
		due, counted := s.Due(h, time.Now())
		if due != want {
			t.Errorf("found the hook due %t, expected %t", due, want)
		}
		return counted
	}
	first, second := due(true), due(false)
	third := due(true)
	s.TakeBack(first)
	s.TakeBack(second)
	due(false) // together with the third
	s.TakeBack(third)
	due(false)
	due(true)
}

// An operator runs a hook that never ran before. That is a run as any other: the hook is not
// due before its time has passed, or before as many connections as it says have come.
func TestBookHookThatNeverRan(t *testing.T) {
	now := time.Now()
	s := new(Schedule)
	hourly := &Hook{On: onActivate, Every: Every{Interval: time.Hour}, key: "hourly"}
	s.Book(hourly, now)
	if due, _ := s.Due(hourly, now.Add(59*time.Minute)); due {
		t.Error("found the hook due within the hour, expected it not to be")
	}
	if due, _ := s.Due(hourly, now.Add(time.Hour)); !due {
		t.Error("found the hook not due after an hour, expected it to be")
	}
	third := &Hook{On: onActivate, Every: Every{Count: 3}, key: "third"}
	for range 2 { // the second time the count is 2 already
		s.Book(third, now)
		for i := range 3 {
			if due, _ := s.Due(third, now); due {
				t.Errorf("found the hook due for connection %d after the run, expected the 4th to be the first", i+1)
			}
		}
		if due, _ := s.Due(third, now); !due {
			t.Error("found the hook not due for the 4th connection after the run, expected it to be")
		}
		_, _ = s.Due(third, now)
	}
	s.Book(&Hook{On: onActivate, key: "always"}, now)
	if len(s.past) != 2 {
		t.Errorf("found the past of %d hooks, expected none of the one that runs every time", len(s.past))
	}
}
