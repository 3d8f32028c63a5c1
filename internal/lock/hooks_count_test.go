package lock_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
)

// With every <n>, a release hook counts connections that reached the service. A connection that an
// activate hook refused does not count, and does not make the release hook run, unless the hook's
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
				s.load(lock.Settings{},
					s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "start", fails: refused}),
					s.hook(hook.Hook{On: hook.Release, Every: hook.Every{Count: 2}},
						&fakeStep{name: "clean", fails: test.fails, does: func(m hook.Moment) { ran = append(ran, m.Connection) }}))
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

// A connection that hold_timeout ends was at the service, even if the service never answered: it
// counts for activate and release hooks.
func TestWedgedConnectionsCount(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		var ran []uint64
		note := func(m hook.Moment) { ran = append(ran, m.Connection) }
		s.load(lock.Settings{HoldTimeout: caddy.Duration(sec)},
			s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 2}}, &fakeStep{name: "start", does: note}),
			s.hook(hook.Hook{On: hook.Release, Every: hook.Every{Count: 2}}, &fakeStep{name: "clean", does: note}))
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

// A connection whose worker is down goes back in line, again and again. It counts once: when it has
// reached the worker.
func TestConnectionCountsOnceItReachesTheWorker(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(lock.Settings{Workers: []string{"a:1"}},
			s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 3}}, &fakeStep{name: "restart"}))
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
