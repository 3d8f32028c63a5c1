package lock_test

import (
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"go.uber.org/zap"
)

// rename activates settings under another name.
func (s *hookStage) rename(name string, settings lock.Settings) {
	c := lock.NewConfig(s.lock, name, settings, s.events, zap.NewNop())
	s.use(c)
}

// nothingAwaited checks that no new process would wait for one of the lock's processes, under any
// of its names.
func nothingAwaited(t *testing.T, names ...string) {
	t.Helper()
	for _, claim := range lock.Exits.Claims() {
		for _, name := range names {
			if claim.Lock == name {
				t.Errorf("found a process at %+v that others would wait for, expected none", claim)
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
		if due := s.lock.Pool().List()[0].Status().Process.Due; due != status.RestartConfig {
			t.Errorf("found a restart of the worker with a client that is due for %q, expected %s", due, status.RestartConfig)
		}
		s.comes(guest{name: "y", stays: time.Second})
		s.until(20 * time.Second)
		for _, w := range s.lock.Pool().List() {
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

// Another lock gets the old name while the renamed lock has a client at a process of that name. The
// other lock's process waits for the end of that process, and no longer.
func TestOldNameOfProcessIsFree(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(2 * time.Second)
		s.comes(guest{name: "x", stays: 8 * time.Second})
		s.until(4 * time.Second)
		s.rename("new", withService(service.Service{}, "a:1"))

		other := lock.EnterLock("stage")
		if other == s.lock {
			t.Fatal("found the renamed lock under its old name")
		}
		c := lock.NewConfig(other, "stage", withService(service.Service{}, "a:1"), s.events, zap.NewNop())
		startedAs := func() (names []string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, a := range s.processes {
				names = append(names, a.id.Lock)
			}
			return names
		}
		other.Pool().Start = func(spec *service.Service, id service.ID, logger func() *zap.Logger) (service.Process, error) {
			if id.Lock == "stage" { // the stage takes it for one of its own lock's, beside the other
				id.Slot, id.Worker = 2, ""
			}
			return s.launch(spec, id, logger)
		}
		other.Activate(c)
		s.until(9500 * time.Millisecond)
		if got := startedAs(); len(got) != 1 {
			t.Errorf("found processes %v, expected the first one only: it has a client", got)
		}
		s.until(13 * time.Second)
		if got := startedAs(); len(got) != 3 {
			t.Errorf("found processes %v, expected one more of each lock", got)
		}
		other.Deactivate(c)
		other.Exit()
		s.expect(`2s x at 1 a:1`)
	})
	nothingAwaited(t, "stage", "new")
}
