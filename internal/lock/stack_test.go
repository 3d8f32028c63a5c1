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

// overlay puts settings in force on top of those in force, as a config does whose apps have
// started. drop takes them off again, as Caddy does if something fails after that.
func (s *hookStage) overlay(settings lock.Settings, hooks ...*hook.Hook) (drop func()) {
	c := lock.NewConfig(s.lock, "", settings, s.events, zap.NewNop(), hooks...)
	s.lock.Activate(c)
	return func() { s.lock.Deactivate(c) }
}

// A config with other hooks comes into force, and is dropped. The hooks of the config before
// it go on counting from where they were.
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
			t.Errorf("found the past of %d hooks, expected that of the dropped config's to be forgotten", n)
		}
	})
}

// A config with other settings comes into force, and is dropped before a connection comes.
// All that the lock goes by is as it was: the bounds of the queue, slots, pause, counts,
// the idle clock, and the descriptors that are set aside.
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
		look := func() []any {
			l := s.lock
			b, stats, free := l.Queue().Bounds(), l.Queue().Stats(), l.Queue().Free()
			counts := l.Schedule().Snapshot()[every.Key()]
			return append(l.Inside(s.config), b, stats, free, l.Pool().Slots(), counts, fds.Process.InUse().ServiceSockets)
		}
		before := look()
		for _, settings := range []lock.Settings{
			{Slots: 1, MaxWaiting: &none, PriorityAge: caddy.Duration(sec)},
			{Slots: 9, MaxWaitingPerClient: 3},
			{Workers: []string{"a:1", "a:2"}},
		} {
			drop := s.overlay(settings, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(sec)}, &fakeStep{name: "other"}))
			synctest.Wait()
			drop()
			synctest.Wait()
			if after := look(); !reflect.DeepEqual(after, before) {
				t.Errorf("after settings %+v: found %v, expected %v", settings, after, before)
			}
		}
		s.lock.Resume()
	})
}

// While a config without idle hooks is in force, a connection comes and goes. When that
// config is dropped, a new pause has begun: the idle hook runs once more, in its time.
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
