package lock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A pause holds the line until a resume or until its time is over. Of several pauses the last one
// sets the time, and one resume ends them all.
func TestPause(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 2})
		s.comes("a", 2*sec)
		s.until(sec)
		s.lock.Pause(0)
		s.comes("b", sec)
		s.until(3 * sec)
		s.comes("c", sec)
		s.until(4 * sec)
		s.lock.Pause(3 * sec)
		if p := s.lock.Status(0).Paused; p == nil || !p.Until.Equal(s.start.Add(7*sec)) || !p.Since.Equal(s.start.Add(sec)) {
			t.Errorf("found pause %+v, expected one from 1 s to 7 s", p)
		}
		s.lock.Pause(time.Hour)
		s.lock.Pause(2 * sec) // to 6 s
		s.expect(`
			0s a in
			2s a out
			6s b in, c in
			7s b out, c out`)
		if p := s.lock.Status(0).Paused; p != nil {
			t.Errorf("found pause %+v, expected none", p)
		}

		s.until(8 * sec)
		s.lock.Pause(sec)
		s.lock.Pause(0)
		s.comes("d", 0)
		s.until(10 * sec) // the time of the first pause does not end the second
		s.say("resume")
		s.lock.Resume()
		s.lock.Resume() // changes nothing
		s.expect(`
			10s resume
			10s d in
			10s d out`)
	})
}

// An idle hook whose time comes in a pause runs once, when the pause has ended.
func TestPauseKeepsIdleHooks(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(2 * sec)}, &fakeStep{name: "restart"}))
		s.lock.Pause(5 * sec)
		s.until(20 * sec)
		s.expect(`5s restart`)
	})
}

// A drain ends when the last holder is gone, and not before. Waiters stay in line. It fails if the
// lock is resumed, or when its own time is over.
func TestDrain(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		drain := func(wait time.Duration) (result chan error) {
			result = make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(s.t.Context(), wait)
				defer cancel()
				result <- s.lock.Drain(ctx, 0)
			}()
			return result
		}
		is := func(result chan error, want error) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-result:
				if !errors.Is(err, want) {
					t.Errorf("found %v, expected %v", err, want)
				}
			default:
				t.Error("found a drain not over, expected it to be")
			}
		}
		s.load(lock.Settings{Slots: 2}, s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "clean", takes: sec}))
		s.comes("a", 2*sec)
		s.comes("b", 4*sec)
		s.until(sec)
		first, short := drain(time.Hour), drain(2*sec)
		synctest.Wait()
		s.comes("c", 0)
		s.until(3 * sec)
		is(short, lock.ErrHolders)
		s.until(4500 * time.Millisecond)
		if len(first) > 0 {
			t.Error("found the drain over while a release hook runs")
		}
		s.until(5 * sec)
		is(first, nil)
		is(drain(time.Hour), nil)
		s.say("resume")
		s.lock.Resume()
		s.until(5500 * time.Millisecond) // c's release hook runs
		again := drain(time.Hour)
		synctest.Wait()
		s.lock.Resume()
		is(again, lock.ErrResumed)
		s.until(7 * sec)
		s.expect(`
			0s a in, b in
			2s a out
			2s clean a begins
			3s clean a done
			4s b out
			4s clean b begins
			5s clean b done
			5s resume
			5s c in
			5s c out
			5s clean c begins
			6s clean c done`)
	})
}

// A drain ends with the lock, whose last holder may never go.
func TestDrainEndsAtShutdown(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		drain := caddy.Duration(0)
		s.load(lock.Settings{Drain: &drain}, s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "wedged", does: func(hook.Moment) { time.Sleep(time.Minute) }}))
		s.comes("a", sec)
		s.until(2 * sec)
		time.AfterFunc(sec, s.lock.ShutDown)
		if err := s.lock.Drain(s.t.Context(), 0); !errors.Is(err, queue.ErrClosed) {
			t.Errorf("found %v, expected %v", err, queue.ErrClosed)
		}
		if at := time.Since(s.start); at != 3*sec {
			t.Errorf("found the drain over after %s, expected 3 s", at)
		}
		s.until(2 * time.Minute)
		s.expect(`
			0s a in
			1s a out
			1m1s wedged a`)
	})
}

// RunNow goes before the line, waits for the holders, runs all hooks of the moment whether they are
// due or not, and admits no connection meanwhile. It counts as a run.
func TestRunNow(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		var seen hook.Moment
		s.load(lock.Settings{},
			s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Interval: 9 * sec}, Exclusive: true},
				&fakeStep{name: "restart", takes: sec, does: func(m hook.Moment) { seen = m }}),
			s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 1000}}, &fakeStep{name: "wait"}))
		s.comes("a", 2*sec)
		s.until(2 * sec)
		s.comes("b", 2*sec)
		s.until(2500 * time.Millisecond)
		s.say("run")
		ran, err := s.lock.RunNow(s.t.Context(), hook.Activate, 0)
		if ran != 2 || err != nil {
			t.Errorf("found %d hooks and error %v, expected 2 and none", ran, err)
		}
		seen.Started = nil
		if want := (hook.Moment{On: hook.Activate, Lock: "stage", Slot: 1}); seen != want {
			t.Errorf("found %+v, expected %+v", seen, want)
		}
		s.until(10 * sec) // restart is due again 9 s after 3 s, not after 0 s
		s.comes("c", 0)
		s.until(13 * sec)
		s.comes("d", 0)
		s.expect(`
			0s restart a begins
			1s restart a done
			1s wait a
			1s a in
			2.5s run
			3s a out
			3s restart begins
			4s restart done
			4s wait
			4s b in
			6s b out
			10s c in
			10s c out
			13s restart d begins
			14s restart d done
			14s d in
			14s d out`)
	})
}

// RunNow fails when holders stay too long, and at the first hook that fails, which is due again. In
// both cases the line goes on.
func TestRunNowInVain(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 3},
			s.hook(hook.Hook{On: hook.Release, Every: hook.Every{Count: 3}}, &fakeStep{name: "clean", fails: map[int]error{2: errStep}}),
			s.hook(hook.Hook{On: hook.Release, Every: hook.Every{Count: 3}}, &fakeStep{name: "sweep"}))
		run := func(wait time.Duration, slot int) (int, error) {
			ctx, cancel := context.WithTimeout(s.t.Context(), wait)
			defer cancel()
			return s.lock.RunNow(ctx, hook.Release, slot)
		}
		s.comes("a", 3*sec)
		s.until(sec)
		time.AfterFunc(sec/2, func() { s.comes("b", 0) })
		if ran, err := run(sec, 0); ran != 0 || !errors.Is(err, lock.ErrHolders) {
			t.Errorf("found %d hooks and error %v, expected none and %v", ran, err, lock.ErrHolders)
		}
		s.until(4 * sec)
		if ran, err := run(time.Hour, 2); ran != 1 || !errors.Is(err, errStep) {
			t.Errorf("found %d hooks and error %v, expected 1 and %v", ran, err, errStep)
		}
		s.comes("c", 0)
		s.expect(`
			0s a in
			2s b in
			2s b out
			2s clean b, sweep b
			3s a out
			4s clean failed
			4s c in
			4s c out
			4s clean c`)
	})
}

// RunNow runs the hooks of the config that is current when the holders have gone.
func TestRunNowAfterReload(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "old"}))
		s.comes("a", 2*sec)
		s.until(sec)
		time.AfterFunc(sec/2, func() { s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "new"})) })
		if ran, err := s.lock.RunNow(s.t.Context(), hook.Release, 0); ran != 1 || err != nil {
			t.Errorf("found %d hooks and error %v, expected 1 and none", ran, err)
		}
		s.expect(`
			0s a in
			2s a out
			2s new a
			2s new`)
	})
}

// Idle hooks whose time comes during RunNow run after it.
func TestRunNowKeepsIdleHooks(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{},
			s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(2 * sec)}, &fakeStep{name: "sleep"}),
			s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "clean", takes: 2 * sec}))
		s.until(sec)
		_, _ = s.lock.RunNow(context.Background(), hook.Release, 0)
		s.until(20 * sec)
		s.expect(`
			1s clean begins
			3s clean done
			3s sleep`)
	})
}

// A kicked waiter leaves the line and is refused. A kicked holder, at the service or in its hooks,
// is cut, and its slot is released when service and hooks have ended. A second kick changes
// nothing.
func TestKick(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		kick := func(id uint64, want error) {
			t.Helper()
			if err := s.lock.Kick(id); !errors.Is(err, want) {
				t.Errorf("kick %d: found %v, expected %v", id, err, want)
			}
			synctest.Wait()
		}
		s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "start", takes: sec}), s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "clean"}))
		for _, name := range []string{"a", "b", "c", "d"} {
			s.comes(name, time.Hour)
			synctest.Wait()
		}
		s.until(2 * sec)
		kick(3, nil)
		kick(3, lock.ErrUnknownConnection)
		kick(1, nil)
		s.until(2500 * time.Millisecond) // b is in its hook
		kick(2, nil)
		kick(2, nil)
		s.until(5 * sec)
		kick(4, nil)
		kick(5, lock.ErrUnknownConnection)
		s.expect(`
			0s start a begins
			1s start a done
			1s a in
			2s c refused: kicked
			2s a cut, clean a, start b begins
			3s start b done
			3s clean b
			3s start d begins
			4s start d done
			4s d in
			5s d cut, clean d`)
		if got := s.lock.Status(0).Connections[status.Kicked]; got != 4 {
			t.Errorf("found %d kicked, expected 4", got)
		}
	})
}

// A connection is kicked while its exclusive hook waits for the other holders. It does not delay
// the line any longer. The hook is due again, for the next connection.
func TestKickOneThatAwaitsExclusiveAccess(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Slots: 2}, s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 2}, Exclusive: true}, &fakeStep{name: "restart"}))
		s.comes("a", 5*sec)
		s.until(sec)
		s.comes("b", time.Hour) // not its turn
		s.until(2 * sec)
		if err := s.lock.Kick(2); err != nil {
			t.Error(err)
		}
		s.until(3 * sec)
		s.comes("c", time.Hour)
		s.until(4 * sec)
		if err := s.lock.Kick(3); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if held := s.lock.Status(0).Held; held != 1 {
			t.Errorf("found %d holders, expected the one that was let through", held)
		}
		s.comes("d", 0)
		s.expect(`
			0s restart a
			0s a in
			1s b in
			2s b cut
			5s a out
			5s restart d
			5s d in
			5s d out`)
		if got := s.lock.Status(0).Connections; got[status.Kicked] != 2 || got[status.Served] != 2 {
			t.Errorf("found %v, expected 2 kicked and 2 served", got)
		}
	})
}
