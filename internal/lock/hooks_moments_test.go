package lock_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
)

// The idle hook runs once in each idle period: when no connection has held a slot or waited for
// that long. Clients that come while it runs wait for its end, and are served then. A client that
// holds its slot for long is no idle period.
func TestIdleHook(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 2}, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(5 * sec)},
			&fakeStep{name: "restart", takes: 2 * sec}))
		s.until(1 * sec)
		s.comes("a", 9*sec)
		s.until(16 * sec)
		s.comes("b", sec)
		s.until(16500 * time.Millisecond)
		s.comes("c", 2*sec)
		s.until(40 * sec)
		s.comes("d", 0)
		s.until(44 * sec)
		s.comes("e", 0)
		s.until(48 * sec)
		s.expect(`
			1s a in
			10s a out
			15s restart begins
			17s restart done
			17s b in, c in
			18s b out
			19s c out
			24s restart begins
			26s restart done
			40s d in
			40s d out
			44s e in
			44s e out`)
		s.load(lock.Settings{})
	})
}

// An idle hook that fails does not keep the next client from being served. It is due again in the
// next idle period, whatever its count. The count begins with the run that succeeded.
func TestIdleHookFails(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(5 * sec), Every: hook.Every{Count: 3}},
			&fakeStep{name: "restart", fails: map[int]error{1: errPanic}}))
		for i := range 4 {
			s.until(time.Duration(i+1) * 10 * sec)
			s.comes("a", 0)
			synctest.Wait()
		}
		s.until(50 * sec)
		s.expect(`
			5s restart failed
			10s a in
			10s a out
			15s restart
			20s a in
			20s a out
			30s a in
			30s a out
			40s a in
			40s a out
			45s restart`)
	})
}

// A reload does not begin a new idle period, and does not run the hook a second time in it. A new
// hook runs at once if the period has been long enough.
func TestIdleHookAndReload(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		hook := func(name string) *hook.Hook {
			return s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(5 * sec)}, &fakeStep{name: name})
		}
		s.load(lock.Settings{}, hook("old"))
		s.until(3 * sec)
		s.load(lock.Settings{}, hook("old"))
		s.until(8 * sec)
		s.load(lock.Settings{}, hook("old"))
		s.until(9 * sec)
		s.load(lock.Settings{}, hook("new"))
		s.until(30 * sec)
		s.expect(`
			5s old
			9s new`)
	})
}

// Refuse hooks run in the background: no refused client waits for them. Only one runs at a time.
// The refusals that come meanwhile count. So the hook is due in its turn, or as soon as it is free
// if its turn came before.
func TestRefuseHook(t *testing.T) {
	refusals := []time.Duration{1 * sec, 2 * sec, 5 * sec, 6 * sec, 9 * sec}
	for _, test := range []struct {
		name  string
		every hook.Every
		want  string
	}{
		{"always", hook.Every{}, `
			0s holder in
			1s a refused: refused_full, restart a begins
			2s b refused: refused_full
			4s restart a done
			5s c refused: refused_full, restart c begins
			6s d refused: refused_full
			8s restart c done
			9s e refused: refused_full, restart e begins
			10s holder out
			12s restart e done`},
		{"2", hook.Every{Count: 2}, `
			0s holder in
			1s a refused: refused_full, restart a begins
			2s b refused: refused_full
			4s restart a done
			5s c refused: refused_full, restart c begins
			6s d refused: refused_full
			8s restart c done
			9s e refused: refused_full, restart e begins
			10s holder out
			12s restart e done`},
		{"4", hook.Every{Count: 4}, `
			0s holder in
			1s a refused: refused_full, restart a begins
			2s b refused: refused_full
			4s restart a done
			5s c refused: refused_full
			6s d refused: refused_full
			9s e refused: refused_full, restart e begins
			10s holder out
			12s restart e done`},
		{"1500ms", hook.Every{Interval: 1500 * time.Millisecond}, `
			0s holder in
			1s a refused: refused_full, restart a begins
			2s b refused: refused_full
			4s restart a done
			5s c refused: refused_full, restart c begins
			6s d refused: refused_full
			8s restart c done
			9s e refused: refused_full, restart e begins
			10s holder out
			12s restart e done`},
	} {
		t.Run(test.name, func(t *testing.T) {
			playHooks(t, func(s *hookStage) {
				s.load(lock.Settings{MaxWaiting: new(int)}, s.hook(hook.Hook{On: hook.Refuse, Every: test.every},
					&fakeStep{name: "restart", takes: 3 * sec}))
				s.comes("holder", 10*sec)
				for i, at := range refusals {
					s.until(at)
					s.comes(string(rune('a'+i)), 0)
				}
				s.until(15 * sec)
				s.expect(test.want)
			})
		})
	}
}

// The turn of a refuse hook comes while it runs. The turn is not lost: the hook runs at the next
// refusal, which is not its turn.
func TestRefuseHookOwed(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{MaxWaiting: new(int)}, s.hook(hook.Hook{On: hook.Refuse, Every: hook.Every{Count: 2}},
			&fakeStep{name: "restart", takes: 3 * sec}))
		s.comes("holder", 20*sec)
		for i, at := range []time.Duration{1, 2, 3, 5} {
			s.until(at * sec)
			s.comes(string(rune('a'+i)), 0)
		}
		s.expect(`
			0s holder in
			1s a refused: refused_full, restart a begins
			2s b refused: refused_full
			3s c refused: refused_full
			4s restart a done
			5s d refused: refused_full, restart d begins
			8s restart d done
			20s holder out`)
	})
}

// A hook of any moment holds no mutex while it runs: the figures of the lock can be read, its
// settings replaced, and other hooks asked whether they are due.
func TestHooksHoldNoMutex(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		var seen []string
		look := func(m hook.Moment) {
			seen = append(seen, m.On)
			time.Sleep(time.Millisecond) // nothing else runs now
			if s.lock.MutexHeld() {
				t.Errorf("on %s: found the lock's mutex held", m.On)
				return
			}
			s.lock.Schedule().Snapshot()    // for ever if the schedule's mutex is held
			stats := s.lock.Queue().Stats() // so with the queue's
			want := 1
			if m.On == hook.Idle {
				want = 0
			}
			if stats.Held != want || stats.Exclusive != (m.On != hook.Refuse) {
				t.Errorf("on %s: found %d holders, exclusive access %t, expected %d, and none at refuse", m.On, stats.Held, stats.Exclusive, want)
			}
		}
		var hooks []*hook.Hook
		for _, on := range hook.Moments {
			h := hook.Hook{On: on, Every: hook.Every{Count: 1}, Exclusive: on != hook.Refuse && on != hook.Idle}
			if on == hook.Idle {
				h.IdleFor = caddy.Duration(5 * sec)
			}
			hooks = append(hooks, s.hook(h, &fakeStep{name: on, does: look}))
		}
		s.load(lock.Settings{MaxWaiting: new(int), HoldTimeout: caddy.Duration(3 * sec)}, hooks...)
		s.comes("a", time.Hour)
		s.until(1 * sec)
		s.comes("b", 0)
		s.until(20 * sec)
		if got, want := strings.Join(seen, " "), "activate refuse timeout release idle"; got != want {
			t.Errorf("found hooks at %s, expected %s", got, want)
		}
	})
}

// On shutdown the line is refused at once. Hooks that still run when drain is over are ended,
// whatever they wait for, and none is retried.
func TestDrainEndsHooks(t *testing.T) {
	drain := caddy.Duration(2 * sec)
	for _, test := range []struct {
		name  string
		hooks func(s *hookStage) []*hook.Hook
		want  string
	}{
		{"activate", func(s *hookStage) []*hook.Hook {
			return []*hook.Hook{s.hook(hook.Hook{On: hook.Activate, Retry: 3, RetryInterval: caddy.Duration(sec)}, &fakeStep{name: "restart", takes: time.Hour})}
		}, `
			0s restart a begins
			0s restart b begins
			2s c refused: shutdown
			4s restart a ended early, restart b ended early, a refused: hook_failed, b refused: hook_failed`},
		{"between two tries", func(s *hookStage) []*hook.Hook {
			fails := map[int]error{1: errStep, 2: errStep}
			return []*hook.Hook{s.hook(hook.Hook{On: hook.Activate, Retry: 1, RetryInterval: caddy.Duration(time.Hour)}, &fakeStep{name: "restart", fails: fails})}
		}, `
			0s restart a failed
			0s restart b failed
			2s c refused: shutdown
			4s a refused: hook_failed, b refused: hook_failed`},
		{"exclusive", func(s *hookStage) []*hook.Hook {
			return []*hook.Hook{s.hook(hook.Hook{On: hook.Activate, Exclusive: true, Every: hook.Every{Interval: time.Millisecond}}, &fakeStep{name: "restart"})}
		}, `
			0s restart a
			0s a in
			2s c refused: shutdown
			4s a cut, b refused: hook_failed`},
	} {
		t.Run(test.name, func(t *testing.T) {
			playHooks(t, func(s *hookStage) {
				s.load(lock.Settings{Slots: 2, Drain: &drain}, test.hooks(s)...)
				s.comes("a", time.Hour)
				synctest.Wait()
				if test.name == "exclusive" {
					s.until(sec) // the hook is due again for b
				}
				s.comes("b", time.Hour)
				synctest.Wait()
				s.comes("c", time.Hour)
				s.until(2 * sec)
				s.lock.ShutDown()
				s.expect(test.want)
			})
		})
	}
}

// Idle hooks are due at the same time, or while another one runs. Each runs in the idle period, one
// after the other, in the order of the config.
func TestIdleHooksOneAfterTheOther(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		idle := func(name string, d time.Duration) *hook.Hook {
			return s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(d)}, &fakeStep{name: name, takes: 2 * sec})
		}
		s.load(lock.Settings{}, idle("first", 5*sec), idle("second", 5*sec), idle("third", 6*sec))
		s.until(30 * sec)
		s.expect(`
			5s first begins
			7s first done
			7s second begins
			9s second done
			9s third begins
			11s third done`)
	})
}

// Clients that are refused while the idle hook runs do not end the idle period: they were never in
// line. The hook does not run again before a client has been served.
func TestIdleAfterRefusals(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{MaxWaiting: new(int)}, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(5 * sec)},
			&fakeStep{name: "sleep", takes: 3 * sec}))
		for _, at := range []time.Duration{6, 7} {
			s.until(at * sec)
			s.comes("a", 0)
		}
		s.until(60 * sec)
		s.comes("b", 0)
		s.until(90 * sec)
		s.expect(`
			5s sleep begins
			6s a refused: refused_full
			7s a refused: refused_full
			8s sleep done
			1m0s b in
			1m0s b out
			1m5s sleep begins
			1m8s sleep done`)
	})
}

// A client comes while the idle hook runs, and leaves the line. That ends the idle period: the next
// one begins when the hook is done.
func TestIdleHookAgainAfterAVisitor(t *testing.T) {
	wait := caddy.Duration(sec / 2)
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{WaitTimeout: wait}, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(5 * sec)},
			&fakeStep{name: "restart", takes: 2 * sec}))
		s.until(6 * sec)
		s.comes("a", 0)
		s.until(20 * sec)
		s.expect(`
			5s restart begins
			6.5s a refused: wait_timeout
			7s restart done
			11.5s restart begins
			13.5s restart done`)
	})
}
