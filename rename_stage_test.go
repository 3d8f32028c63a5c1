package tcplock

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/pool"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// rename activates settings under another name.
func (s *hookStage) rename(name string, settings Settings) {
	c := &config{lock: s.lock, name: name, defined: true, settings: settings, events: s.events}
	c.logTo(zap.NewNop())
	s.lock.activate(c)
	s.lock.deactivate(s.handler.config)
	s.handler.config = c
}

// nothingAwaited makes sure that of the lock's processes, under whichever name, none is waited for.
func nothingAwaited(t *testing.T, names ...string) {
	t.Helper()
	for _, place := range pool.Exiting() {
		for _, name := range names {
			if place.Lock == name {
				t.Errorf("found a process at %+v that others would wait for, expected none", place)
			}
		}
	}
}

// The lock is renamed while one worker has a client and the other none. Each process has the
// lock's name in its environment, so it is restarted: at once, or when its client has gone.
func TestRenameRestartsProcesses(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(1500 * time.Millisecond)
		s.load(withService(service.Service{}, "a:1", "b:1"))
		s.until(2 * time.Second) // the second is not ready yet
		s.comes(guest{name: "x", stays: 8 * time.Second})
		s.until(4 * time.Second)
		s.rename("new", withService(service.Service{}, "a:1", "b:1"))
		s.until(5500 * time.Millisecond)
		if due := s.lock.pool.List()[0].Status().Process.Due; due != status.RestartConfig {
			t.Errorf("found a restart of the worker with a client that is due for %q, expected %s", due, status.RestartConfig)
		}
		s.comes(guest{name: "y", stays: time.Second})
		s.until(20 * time.Second)
		for _, w := range s.lock.pool.List() {
			if n := w.Status().Process.Restarts[status.RestartConfig]; n != 1 {
				t.Errorf("slot %d: found %d restarts for config, expected 1", w.Slot, n)
			}
		}
		var names []string
		for _, a := range s.processes {
			names = append(names, a.id.Lock)
		}
		if len(names) != 4 || names[0] != "stage" || names[1] != "stage" || names[2] != "new" || names[3] != "new" {
			t.Errorf("found processes of locks %v, expected two of stage and two of new", names)
		}
		s.expect(`
			2s x at 1 a:1
			6s y at 2 b:1`)
	})
	nothingAwaited(t, "stage", "new")
}

// The old name comes back as another lock's while the renamed lock has a client at a process
// of that name still. The places after the name are free when that process has ended: the
// other lock's process waits for that, and no longer.
func TestOldNameOfProcessIsFree(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(2 * time.Second)
		s.comes(guest{name: "x", stays: 8 * time.Second})
		s.until(4 * time.Second)
		s.rename("new", withService(service.Service{}, "a:1"))

		other := enterLock("stage")
		if other == s.lock {
			t.Fatal("found the renamed lock under its old name")
		}
		c := &config{lock: other, name: "stage", defined: true, settings: withService(service.Service{}, "a:1"), events: s.events}
		c.logTo(zap.NewNop())
		startedAs := func() (names []string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, a := range s.processes {
				names = append(names, a.id.Lock)
			}
			return names
		}
		before := service.Starting
		service.Starting = func(spec *service.Service, id service.ID, logger func() *zap.Logger) (service.Process, error) {
			if id.Lock == "stage" { // the stage takes it for one of its own lock's, beside the other
				id.Slot, id.Worker = 2, ""
			}
			return before(spec, id, logger)
		}
		other.activate(c)
		service.Starting = before
		s.until(9500 * time.Millisecond)
		if got := startedAs(); len(got) != 1 {
			t.Errorf("found processes %v, expected the first one only: it has a client", got)
		}
		s.until(13 * time.Second)
		if got := startedAs(); len(got) != 3 {
			t.Errorf("found processes %v, expected one more of each lock", got)
		}
		other.deactivate(c)
		other.exit()
		s.expect(`2s x at 1 a:1`)
	})
	nothingAwaited(t, "stage", "new")
}

// What the status page has of the last minutes goes on under the new name.
func TestStatusHistoryOfRenamedLock(t *testing.T) {
	watched(t, func(s *hookStage, h *hub) {
		s.until(500 * time.Millisecond)
		s.comes("a", 20*time.Second)
		synctest.Wait()
		s.comes("b", 0)
		s.until(5500 * time.Millisecond)
		s.rename("new", Settings{})
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

// Users enter and leave a lock from many sides. It does not end under any of them, and none
// is left when all have gone.
func TestRegistryConcurrent(t *testing.T) {
	var all sync.WaitGroup
	var made atomic.Int64
	for range 8 {
		all.Go(func() {
			for range 2000 {
				l := enterLock("crowded")
				if l.ctx.Err() != nil {
					t.Error("found a lock that has ended, expected one in use")
				}
				if !l.enter() {
					t.Error("found no way into a lock in use")
				}
				l.exit()
				if l.users.Load() == 1 {
					made.Add(1)
				}
				l.exit()
			}
		})
	}
	all.Wait()
	for _, l := range locks.list() {
		if l.Name() == "crowded" {
			t.Errorf("found a lock with %d users, expected none", l.users.Load())
		}
	}
}

// A connection may come by a config that has ended, and whose lock has ended with it. It gets
// the lock that has the name now, and that one ends with it.
func TestConnectionAfterItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := new(App).CaddyModule().New().(*App)
		c := &config{assign: a.findLocks, name: "late", defined: true}
		c.logTo(zap.NewNop())
		a.configs["late"] = c
		if err := a.Cleanup(); err != nil { // of a config that has failed
			t.Fatal(err)
		}
		l, second := c.enter(), c.enter()
		if l == c.lock || l != second || l.Name() != "late" || l.ctx.Err() != nil {
			t.Errorf("found lock %s, and another one for the second connection: %v", l.Name(), l != second)
		}
		l.exit()
		l.exit()
		if l.ctx.Err() == nil || len(locks.list()) > 0 {
			t.Errorf("found %d locks, expected none", len(locks.list()))
		}
	})
}
