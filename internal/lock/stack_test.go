package lock_test

import (
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"go.uber.org/zap"
)

// overlay activates settings on top of the current ones, as a config does when its apps have
// started. drop deactivates them, as Caddy does if something fails after that.
func (s *hookStage) overlay(settings lock.Settings, hooks ...*hook.Hook) (drop func()) {
	c := lock.NewConfig(s.lock, "", settings, s.events, zap.NewNop(), hooks...)
	s.lock.Activate(c)
	return func() { s.lock.Deactivate(c) }
}

// A config with other hooks is activated, and dropped. The hooks of the config before it continue
// their counts.
func TestDroppedConfigForgetsNoCount(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		var ran []uint64
		note := func(m hook.Moment) { ran = append(ran, m.Connection) }
		h := s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 3}}, &fakeStep{name: "restart", does: note})
		s.load(lock.Settings{}, h)
		come := func() {
			s.comes("x", 0)
			s.ended.Wait()
			synctest.Wait()
		}
		come()
		come()
		drop := s.overlay(lock.Settings{Slots: 2}, s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 5}}, &fakeStep{name: "other"}))
		come() // counts for the other hook only
		drop()
		come()
		come()
		if want := []uint64{1, 5}; !slices.Equal(ran, want) {
			t.Errorf("found the hook run for %d, expected %d", ran, want)
		}
		if n := len(s.lock.Schedule().Snapshot()); n != 1 {
			t.Errorf("found the counts of %d hooks, expected those of the dropped config to be gone", n)
		}
	})
}

// A config with other settings is activated, and dropped before a connection comes. The state of
// the lock is as before: the bounds of the queue, slots, pause, counts, the idle clock, and the
// reserved descriptors.
func TestDroppedConfigChangesNothing(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		none := 0
		idle := s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(time.Minute)}, &fakeStep{name: "idle"})
		every := s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 3}}, &fakeStep{name: "restart"})
		s.load(lock.Settings{Slots: 4, MaxPerClient: 2, HoldTimeout: caddy.Duration(time.Hour)}, idle, every)
		s.comes("a", 0)
		s.ended.Wait()
		s.until(sec)
		s.lock.Pause(time.Hour)
		state := func() []any {
			l := s.lock
			b, stats, free := l.Queue().Bounds(), l.Queue().Stats(), l.Queue().Free()
			counts := l.Schedule().Snapshot()[every.Key()]
			return append(l.Inside(s.config), b, stats, free, l.Pool().Slots(), counts, fds.Process.InUse().ServiceSockets)
		}
		before := state()
		for _, settings := range []lock.Settings{
			{Slots: 1, MaxWaiting: &none, PriorityAge: caddy.Duration(sec)},
			{Slots: 9, MaxWaitingPerClient: 3},
			{Workers: []string{"a:1", "a:2"}},
		} {
			drop := s.overlay(settings, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(sec)}, &fakeStep{name: "other"}))
			synctest.Wait()
			drop()
			synctest.Wait()
			if after := state(); !reflect.DeepEqual(after, before) {
				t.Errorf("after settings %+v: found %v, expected %v", settings, after, before)
			}
		}
		s.lock.Resume()
	})
}

// While a config without idle hooks is current, a connection comes and goes. When that config is
// dropped, a new idle period has begun: the idle hook runs once more, in its time.
func TestDroppedConfigAndIdleHook(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{}, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(5 * sec)}, &fakeStep{name: "sleep"}))
		s.until(7 * sec)
		drop := s.overlay(lock.Settings{})
		s.comes("a", sec)
		s.until(9 * sec)
		drop()
		s.until(30 * sec)
		s.expect(`
			5s sleep
			7s a in
			8s a out
			14s sleep`)
	})
}
