package lock_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
)

const sec = time.Second

// One client comes each second. The hook runs for the first one. After that it runs when n clients
// have been served since its last run, or when that run is long enough ago. A hook that failed is
// due again the next time. (Numbers are clients.)
func TestHookEvery(t *testing.T) {
	for _, test := range []struct {
		name  string
		every hook.Every
		fails map[int]error
		want  []uint64
	}{
		{"always", hook.Every{}, nil, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"3", hook.Every{Count: 3}, nil, []uint64{1, 4, 7}},
		{"3, first fails", hook.Every{Count: 3}, map[int]error{1: errStep}, []uint64{1, 2, 5, 8}},
		{"3, second fails twice", hook.Every{Count: 3}, map[int]error{2: errStep, 3: errPanic}, []uint64{1, 4, 5, 6, 9}},
		{"3s", hook.Every{Interval: 3 * sec}, nil, []uint64{1, 4, 7}},
		{"2.5s", hook.Every{Interval: 2500 * time.Millisecond}, nil, []uint64{1, 4, 7}},
		{"3s, first fails", hook.Every{Interval: 3 * sec}, map[int]error{1: errStep}, []uint64{1, 2, 5, 8}},
	} {
		t.Run(test.name, func(t *testing.T) {
			playHooks(t, func(s *hookStage) {
				var ran []uint64
				s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Activate, Every: test.every},
					&fakeStep{name: "step", fails: test.fails, does: func(m hook.Moment) { ran = append(ran, m.Connection) }}))
				for i := range 9 {
					s.until(time.Duration(i) * sec)
					s.comes("client", sec/2)
				}
				s.ended.Wait()
				if !slices.Equal(ran, test.want) {
					t.Errorf("found it run for %d, expected %d", ran, test.want)
				}
			})
		})
	}
}

// Two hooks run every third time. A reload changes one of them. The other keeps its count, and the
// changed one starts anew, as does a hook that is removed and comes back.
func TestHookCountSurvivesReload(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		every := hook.Hook{On: hook.Activate, Every: hook.Every{Count: 3}}
		edited := every
		edited.Retry = 1
		same := func() *hook.Hook { return s.hook(every, &fakeStep{name: "same"}) }
		come := func() {
			s.comes("x", 0)
			synctest.Wait()
		}
		s.load(lock.Settings{}, same(), s.hook(every, &fakeStep{name: "other"}))
		come()
		come()
		s.load(lock.Settings{Slots: 2}, same(), s.hook(edited, &fakeStep{name: "other"}))
		come()
		come()
		s.load(lock.Settings{}, s.hook(edited, &fakeStep{name: "other"}))
		s.load(lock.Settings{}, same())
		come()
		s.expect(`
			0s same x
			0s other x
			0s x in
			0s x out
			0s x in
			0s x out
			0s other x
			0s x in
			0s x out
			0s same x
			0s x in
			0s x out
			0s same x
			0s x in
			0s x out`)
	})
}

// The second step of three fails. It is tried again after the interval; the first one is not. When
// no try is left, the hook has failed, and the third step never runs.
func TestHookRetry(t *testing.T) {
	for _, test := range []struct {
		retry int
		want  string
	}{
		{3, `
			0s stop a
			0s start a failed
			2s start a failed
			4s start a
			4s check a
			4s a in
			4s a out`},
		{1, `
			0s stop a
			0s start a failed
			2s start a failed
			2s a refused: hook_failed`},
	} {
		playHooks(t, func(s *hookStage) {
			s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Activate, Retry: test.retry, RetryInterval: caddy.Duration(2 * sec)},
				&fakeStep{name: "stop"},
				&fakeStep{name: "start", fails: map[int]error{1: errStep, 2: errPanic}},
				&fakeStep{name: "check"}))
			s.comes("a", 0)
			s.expect(test.want)
		})
	}
}

// An activate hook that fails refuses its connection. The hooks after it do not run, and the next
// in line is admitted. If the hook is optional, its failure has no effect. At release there is no
// connection to refuse, and the hooks after it run too. A panic is a failure like others.
func TestHookFails(t *testing.T) {
	const passes = `
			0s first a failed
			0s second a
			0s a in
			1s a out
			1s last a failed
			1s end a
			1s first b
			1s second b
			1s b in
			2s b out
			2s last b
			2s end b`
	const refuses = `
			0s first a failed
			0s a refused: hook_failed, last a failed, end a, first b, second b, b in
			1s b out
			1s last b
			1s end b`
	for _, err := range []error{errStep, errPanic} {
		for _, optional := range []bool{true, false} {
			playHooks(t, func(s *hookStage) {
				fails := map[int]error{1: err}
				s.load(lock.Settings{},
					s.hook(hook.Hook{On: hook.Activate, Optional: optional}, &fakeStep{name: "first", fails: fails}),
					s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "second"}),
					s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "last", fails: fails}),
					s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "end"}))
				s.comes("a", sec)
				synctest.Wait()
				s.comes("b", sec)
				if optional {
					s.expect(passes)
				} else {
					s.expect(refuses)
				}
			})
		}
	}
}

// Hooks of one slot run one at a time, in the order of the config. The slot is handed on after the
// last of them. Hooks of the other slot run at the same time.
func TestHooksOfSlots(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 2},
			s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "clean", takes: 2 * sec}),
			s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "start", takes: 2 * sec}, &fakeStep{name: "check"}),
			s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "greet"}))
		s.comes("a", 2*sec)
		s.until(1 * sec)
		s.comes("b", 9*sec)
		s.until(2500 * time.Millisecond)
		s.comes("c", 0)
		s.expect(`
			0s start a begins
			1s start b begins
			2s start a done
			2s check a
			2s greet a
			2s a in
			3s start b done
			3s check b
			3s greet b
			3s b in
			4s a out
			4s clean a begins
			6s clean a done
			6s start c begins
			8s start c done
			8s check c
			8s greet c
			8s c in
			8s c out
			8s clean c begins
			10s clean c done
			12s b out
			12s clean b begins`)
		s.until(14 * sec)
	})
}

// When hold_timeout is over, the client is cut. The timeout hook and then the release hook run
// before the slot is handed on, and then it settles. The time of hooks does not count as the next
// client's time.
func TestTimeoutHook(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		reason := func(m hook.Moment) {
			s.say(fmt.Sprintf("%s %s slot %d connection %d waited %s", m.On, m.Reason, m.Slot, m.Connection, m.Waited))
		}
		s.load(lock.Settings{HoldTimeout: caddy.Duration(2 * sec), Settle: caddy.Duration(4 * sec)},
			s.hook(hook.Hook{On: hook.Timeout}, &fakeStep{name: "restart", takes: 3 * sec, does: reason}),
			s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "clean", does: reason}))
		s.comes("a", time.Hour)
		s.until(1 * sec)
		s.comes("b", 1900*time.Millisecond)
		s.until(15 * sec)
		s.expect(`
			0s a in
			2s a cut, timeout hold_timeout slot 1 connection 1 waited 0s, restart a begins
			5s restart a done
			5s release hold_timeout slot 1 connection 1 waited 0s
			5s clean a
			9s b in
			10.9s b out
			10.9s release served slot 1 connection 2 waited 8s
			10.9s clean b`)
	})
}

// An exclusive hook waits until all other holders have finished. While it waits and runs, no
// connection is admitted, whatever slots are free. After it, as many as possible are.
func TestHookExclusive(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 3}, s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 3}, Exclusive: true},
			&fakeStep{name: "restart", takes: sec}))
		for i, stays := range []time.Duration{9 * sec, 3 * sec, 10 * sec, 1 * sec, 1 * sec} {
			s.until(time.Duration(i)*sec + time.Duration(min(i, 1))*sec)
			s.comes(string(rune('a'+i)), stays)
		}
		s.expect(`
			0s restart a begins
			1s restart a done
			1s a in
			2s b in
			3s c in
			5s b out
			10s a out
			13s c out
			13s restart d begins
			14s restart d done
			14s d in, e in
			15s d out, e out`)
	})
}

// An exclusive activate hook waits for the connection before it, which is at a wedged service
// until hold_timeout ends it, with an exclusive timeout hook. That hook goes first, since the
// service has not let go yet. The activate hook runs when that slot has been given back.
func TestExclusiveBesideTimeoutHook(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 2, HoldTimeout: caddy.Duration(3 * sec)},
			s.hook(hook.Hook{On: hook.Activate, Exclusive: true}, &fakeStep{name: "start", takes: sec}),
			s.hook(hook.Hook{On: hook.Timeout, Exclusive: true}, &fakeStep{name: "restart", takes: 2 * sec}))
		s.wedges("a", 10*sec)
		s.until(2 * sec)
		s.comes("b", sec)
		s.until(20 * sec)
		s.expect(`
			0s start a begins
			1s start a done
			1s a in
			4s restart a begins
			6s restart a done
			6s start b begins
			7s start b done
			7s b in
			8s b out
			11s a out`)
	})
}

// Without a timeout hook, the exclusive release hook runs while the service has not let go yet, and
// goes first. It may restart the service.
func TestExclusiveBesideReleaseHook(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 2, HoldTimeout: caddy.Duration(3 * sec)},
			s.hook(hook.Hook{On: hook.Activate, Exclusive: true}, &fakeStep{name: "start", takes: sec}),
			s.hook(hook.Hook{On: hook.Release, Exclusive: true}, &fakeStep{name: "clean", takes: 2 * sec}))
		s.wedges("a", 10*sec)
		s.until(2 * sec)
		s.comes("b", sec)
		s.until(20 * sec)
		s.expect(`
			0s start a begins
			1s start a done
			1s a in
			4.25s clean a begins
			6.25s clean a done
			6.25s start b begins
			7.25s start b done
			7.25s b in
			8.25s b out
			8.25s clean b begins
			10.25s clean b done
			11s a out`)
	})
}

// Two connections are at a wedged service when hold_timeout ends both. Their exclusive
// timeout hooks do not wait for each other for ever: the first one goes.
func TestExclusiveTimeoutHooksOfWedgedService(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 3, HoldTimeout: caddy.Duration(3 * sec)},
			s.hook(hook.Hook{On: hook.Timeout, Exclusive: true}, &fakeStep{name: "restart", takes: 2 * sec}))
		s.wedges("a", 20*sec)
		s.until(sec)
		s.wedges("b", 20*sec)
		s.until(2 * sec)
		s.comes("c", sec)
		s.until(30 * sec)
		s.expect(`
			0s a in
			1s b in
			2s c in
			3s c out
			4s restart a begins
			6s restart a done
			6s restart b begins
			8s restart b done
			20s a out
			21s b out`)
	})
}

// The other holders do not finish in time. The hook has failed, its connection is refused, and the
// line goes on. The hook is due again for the next one, and fails again.
func TestHookExclusiveInVain(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 3}, s.hook(
			hook.Hook{On: hook.Activate, Every: hook.Every{Count: 2}, Exclusive: true, ExclusiveWait: caddy.Duration(2 * sec)},
			&fakeStep{name: "restart"}))
		s.comes("a", 20*sec)
		synctest.Wait()
		s.comes("b", 20*sec)
		s.until(1 * sec)
		s.comes("c", 0)
		s.until(2 * sec)
		s.comes("d", 0)
		s.until(6 * sec)
		s.load(lock.Settings{Slots: 3})
		s.comes("e", sec)
		s.expect(`
			0s restart a
			0s a in
			0s b in
			3s c refused: hook_failed
			5s d refused: hook_failed
			6s e in
			7s e out
			20s a out, b out`)
	})
}

// Three exclusive hooks ask for access at the same time. They do not wait for each other for ever:
// each gets it, in the order in which they asked. A new connection is admitted when all are done.
func TestHooksExclusiveAtOnce(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 3}, s.hook(hook.Hook{On: hook.Release, Exclusive: true}, &fakeStep{name: "clean", takes: sec}))
		s.comes("a", 3*sec)
		s.comes("b", 4*sec)
		s.comes("c", 6*sec)
		s.until(5 * sec)
		s.comes("d", sec)
		s.until(12 * sec)
		s.expect(`
			0s a in, b in, c in
			3s a out
			4s b out
			6s c out
			6s clean a begins
			7s clean a done
			7s clean b begins
			8s clean b done
			8s clean c begins
			9s clean c done
			9s d in
			10s d out
			10s clean d begins
			11s clean d done`)
	})
}
