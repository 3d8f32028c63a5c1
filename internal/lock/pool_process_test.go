package lock_test

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

var errCrash = errors.New("exit status 1")

func withService(s service.Service, workers ...string) lock.Settings {
	return lock.Settings{Workers: workers, Service: &s}
}

// A worker's process accepts no connections, and is left out for longer and longer. When the
// process that replaces it is ready, the worker is tried at once, and its earlier failures count no
// more.
func TestRestartEndsBackOff(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.deaf = true
		s.load(withService(service.Service{}, "a:1"))
		s.until(time.Second)
		s.comes(guest{name: "x", stays: time.Second})
		s.until(12 * time.Second)
		s.last().exit(errCrash)
		s.until(23200 * time.Millisecond)
		s.let(func() { s.deaf = false })
		s.last().exit(errCrash)
		s.expect(`
			1s x not at 1 a:1
			1.5s x not at 1 a:1
			2.5s x not at 1 a:1
			4.5s x not at 1 a:1
			8.5s x not at 1 a:1
			13s x not at 1 a:1
			13.5s x not at 1 a:1
			14.5s x not at 1 a:1
			16.5s x not at 1 a:1
			20.5s x not at 1 a:1
			24.2s x at 1 a:1`)
	})
}

// While a client's hook runs, its process is replaced by another, which the client does not reach.
// That does not count against the new process: the client was never sent to it.
func TestMissedProcessHasEnded(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"), s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "hook", takes: 3 * time.Second}))
		s.until(11 * time.Second)
		s.comes(guest{name: "x", stays: time.Second})
		s.let(func() { s.deaf = true })
		s.until(12 * time.Second)
		s.last().exit(errCrash)
		s.until(15 * time.Second)
		p := s.last()
		s.let(func() { p.deaf = false })
		s.expect(`
			11s hook x begins
			14s hook x done
			14s x not at 1 a:1
			14s hook x begins
			17s hook x done
			17s x at 1 a:1`)
	})
}

// A client reaches the worker, and then its connection ends with an error. So the worker is up
// again: when it is down the next time, it is left out for the shortest time. An error that says
// that no worker was reached does not show that.
func TestReachedThenFailed(t *testing.T) {
	for _, c := range []struct {
		fails error
		again string
	}{
		{errCrash, "3s"},
		{&net.OpError{Op: "dial", Err: errCrash}, "4.5s"},
	} {
		playPool(t, func(s *poolStage) {
			s.load(lock.Settings{Workers: []string{"a:1"}})
			s.down["a:1"] = true
			s.comes(guest{name: "x", stays: time.Second, fails: c.fails})
			s.until(time.Second)
			s.let(func() { s.down["a:1"] = false })
			s.until(2 * time.Second)
			s.let(func() { s.down["a:1"] = true })
			s.comes(guest{name: "y", stays: time.Second})
			s.until(2900 * time.Millisecond)
			s.let(func() { s.down["a:1"] = false })
			s.expect(`
				0s x not at 1 a:1
				500ms x not at 1 a:1
				1.5s x at 1 a:1
				2.5s y not at 1 a:1
				` + c.again + ` y at 1 a:1`)
		})
	}
}

// A client's connection to a worker hangs until hold_timeout, and its slot goes on. When the
// connection fails at last, another worker has the slot. The failure does not count against it.
func TestDownWhenRemoved(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(lock.Settings{Workers: []string{"a:1"}})
		gone := s.lock.Pool().Worker(1)
		s.load(lock.Settings{Workers: []string{"b:1"}})
		gone.Down(errCrash)
		s.until(time.Minute)
		s.comes(guest{name: "x", stays: time.Second})
		s.expect("1m0s x at 1 b:1")
	})
}

// A process that ends by itself soon has failed unless a client has reached it, whatever its exit
// status. The next start has to wait. The order in which the lock notices does not matter: the end
// of the process, that the client has reached it, or the end of the client.
func TestProcessForOneClient(t *testing.T) {
	for name, c := range map[string]struct {
		client guest
		status error
		deaf   bool
		again  time.Duration // when the next is ready
	}{
		"answers":              {guest{stays: time.Hour, tail: 300 * time.Millisecond}, nil, false, 3 * time.Second},
		"answers and crashes":  {guest{stays: time.Hour, tail: 300 * time.Millisecond}, errCrash, false, 3 * time.Second},
		"says nothing":         {guest{stays: time.Hour, tail: 300 * time.Millisecond, silent: true}, nil, false, 3300 * time.Millisecond},
		"crashes in silence":   {guest{stays: time.Hour, tail: 300 * time.Millisecond, silent: true}, errCrash, false, 3300 * time.Millisecond},
		"not needed":           {guest{stays: time.Hour}, nil, true, 4 * time.Second},
		"crashes unneeded":     {guest{stays: time.Hour}, errCrash, true, 4 * time.Second},
		"its client left":      {guest{stays: 500 * time.Millisecond}, errCrash, false, 3 * time.Second},
		"its client was quiet": {guest{stays: 500 * time.Millisecond, silent: true}, errCrash, false, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			playPool(t, func(s *poolStage) {
				s.deaf = c.deaf
				s.load(withService(service.Service{}, "a:1"))
				s.until(time.Second)
				s.comes(c.client)
				s.until(2 * time.Second)
				s.let(func() { s.deaf = false })
				s.last().exit(c.status)
				s.until(c.again - time.Millisecond)
				if now := s.lock.Pool().Worker(1).Running().Snapshot(); now.State == status.ProcessReady {
					t.Errorf("the next process was ready before %s", c.again)
				}
				s.until(c.again)
				if now := s.lock.Pool().Worker(1).Running().Snapshot(); now.State != status.ProcessReady {
					t.Errorf("found %+v at %s, expected it ready", now, c.again)
				}
			})
		})
	}
}

// A reload takes the service away from a worker that has a client. Its process ends when the client
// has gone, and then the slot is in service without a process. The service can come back at any
// time: before the client has gone, and the process stays; or after that, and the next process
// starts when the former one has ended. A crash under the client changes nothing.
func TestServiceTakenAway(t *testing.T) {
	without := lock.Settings{Workers: []string{"a:1"}}
	played := func(script func(s *poolStage)) {
		t.Helper()
		playPool(t, func(s *poolStage) {
			s.load(withService(service.Service{Command: "x"}, "a:1"))
			s.until(time.Second)
			s.comes(guest{name: "x", stays: 4 * time.Second, tail: 4 * time.Second})
			s.until(2 * time.Second)
			s.load(without)
			s.comes(guest{name: "y", stays: time.Second})
			script(s)
		})
	}
	played(func(s *poolStage) {
		s.expect(`
			1s x at 1 a:1
			6s y at 1 a:1`)
		if len(s.processes) != 1 || !s.last().ended {
			t.Errorf("found %d processes, expected one that has ended", len(s.processes))
		}
	})
	played(func(s *poolStage) {
		s.until(3 * time.Second)
		s.load(withService(service.Service{Command: "x"}, "a:1"))
		s.expect(`
			1s x at 1 a:1
			5s y at 1 a:1`)
		if len(s.processes) != 1 || s.last().asked {
			t.Errorf("found %d processes, expected the first one, not asked to end", len(s.processes))
		}
	})
	played(func(s *poolStage) {
		s.until(5500 * time.Millisecond)
		s.load(withService(service.Service{Command: "x", Start: service.StartLazy}, "a:1"))
		s.expect(`
			1s x at 1 a:1
			7s y at 1 a:1`)
	})
	played(func(s *poolStage) {
		s.last().exit(errCrash) // another is ready before x has gone
		s.expect(`
			1s x at 1 a:1
			7s y at 1 a:1`)
		if len(s.processes) != 2 {
			t.Errorf("found %d processes, expected 2", len(s.processes))
		}
	})
}

// A worker takes the slot of another whose process is still ending. The new worker has no process,
// so it serves at once, and the end of that process changes nothing.
func TestSlotOfEndingProcess(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(time.Second)
		s.load(lock.Settings{Workers: []string{"b:1"}})
		s.comes(guest{name: "x", stays: 200 * time.Millisecond})
		s.until(3 * time.Second)
		s.comes(guest{name: "y", stays: time.Second})
		s.expect(`
			1s x at 1 b:1
			3s y at 1 b:1`)
	})
}

// A worker comes back while its process is ending. It is out of service until then, even if its
// next process starts only when a client comes: the other workers serve.
func TestSuccessorIsOut(t *testing.T) {
	lazy := service.Service{Start: service.StartLazy}
	playPool(t, func(s *poolStage) {
		s.endsAfter = 5 * time.Second
		s.load(withService(service.Service{}, "a:1", "b:1"))
		s.until(time.Second)
		s.load(withService(lazy, "a:1"))
		s.until(2 * time.Second)
		s.load(withService(lazy, "a:1", "b:1"))
		s.comes(guest{name: "x", stays: time.Second})
		synctest.Wait()
		s.comes(guest{name: "y", stays: time.Second})
		s.until(4 * time.Second)
		s.comes(guest{name: "z", stays: 10 * time.Second})
		synctest.Wait()
		s.comes(guest{name: "last", stays: time.Second})
		s.expect(`
			2s x at 1 a:1
			3s y at 1 a:1
			4s z at 1 a:1
			7s last at 2 b:1`)
	})
}

// A reload removes a worker and another brings it back, while it has the same client, or in the
// instant in which that client leaves. Its process stays, and the slot serves.
func TestRemovedWorkerComesBack(t *testing.T) {
	for _, at := range []time.Duration{5 * time.Second, 6 * time.Second, 6*time.Second + 1} {
		playPool(t, func(s *poolStage) {
			s.load(withService(service.Service{}, "a:1"))
			s.until(time.Second)
			s.comes(guest{name: "w", stays: time.Minute})
			s.load(withService(service.Service{}, "a:1", "b:1"))
			s.until(4 * time.Second)
			s.comes(guest{name: "x", stays: 2 * time.Second})
			s.until(5 * time.Second)
			s.load(withService(service.Service{}, "a:1"))
			time.Sleep(at - time.Since(s.start)) // and not until all is quiet
			s.load(withService(service.Service{}, "a:1", "b:1"))
			s.until(20 * time.Second)
			s.comes(guest{name: "y", stays: time.Second})
			s.expect(`
				1s w at 1 a:1
				4s x at 2 b:1
				20s y at 2 b:1`)
		})
	}
}

// The time of the idle hook comes while the only process is being restarted. The hook runs all the
// same.
func TestIdleHookWhileRestarting(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.endsAfter = 5 * time.Second
		s.load(withService(service.Service{RestartEvery: 1}, "a:1"),
			s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(2500 * time.Millisecond)}, &fakeStep{name: "idle"}))
		s.until(time.Second)
		s.comes(guest{name: "x", stays: time.Second})
		s.until(time.Minute)
		s.expect(`
			1s x at 1 a:1
			4.5s idle`)
	})
}

// A requested restart begins in the instant in which the client has gone, not at a later check.
func TestRestartWhenHolderHasGone(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(time.Second)
		s.comes(guest{name: "x", stays: 2 * time.Second})
		s.until(2 * time.Second)
		s.lock.Restart(0)
		s.comes(guest{name: "y", stays: time.Second})
		s.expect(`
			1s x at 1 a:1
			5s y at 1 a:1`)
	})
}
