package lock_test

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The time in which a connection finds out that its worker cannot be reached counts as time in
// line. If its wait_timeout is over then, the connection leaves and does not try another worker.
func TestTriesAreTimeInLine(t *testing.T) {
	waits := func(d time.Duration, s lock.Settings) lock.Settings {
		s.WaitTimeout = caddy.Duration(d)
		return s
	}
	playPool(t, func(s *poolStage) {
		s.load(waits(5*time.Second, lock.Settings{Workers: []string{"a:1"}}))
		s.down["a:1"] = true
		s.comes(guest{name: "x", dials: 3 * time.Second})
		s.until(time.Second)
		s.comes(guest{name: "y", dials: 3 * time.Second})
		s.expect(`
			3s x not at 1 a:1
			6s y refused: wait_timeout
			6.5s x not at 1 a:1
			6.5s x refused: wait_timeout`)
	})
	playPool(t, func(s *poolStage) {
		s.load(waits(2*time.Second, lock.Settings{Workers: []string{"a:1", "b:1"}}))
		s.down["a:1"], s.down["b:1"] = true, true
		s.comes(guest{name: "x", dials: 3 * time.Second})
		s.expect(`
			3s x not at 1 a:1
			3s x refused: wait_timeout`)
		if found := s.lock.Status(1); found.Held != 0 || found.Waiting != 0 || found.Connections[status.WaitTimeout] != 1 {
			t.Errorf("found %+v, expected the client to have left after one wait_timeout", found)
		}
	})
}

// The time of a failed start counts as time in line too.
func TestFailedStartIsTimeInLine(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.readyAfter, s.readyErr = 3*time.Second, errCrash
		s.load(lock.Settings{Workers: []string{"a:1"}, Service: &service.Service{Start: service.StartLazy}, WaitTimeout: caddy.Duration(5 * time.Second)})
		s.comes(guest{name: "x"})
		s.expect("5s x refused: wait_timeout")
	})
}

// The time in hooks does not count: after them the connection has as much of its wait_timeout as
// before.
func TestHooksAreNotTimeInLine(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(lock.Settings{Workers: []string{"a:1"}, WaitTimeout: caddy.Duration(2 * time.Second)},
			s.hook(hook.Hook{On: hook.Activate}, &fakeStep{name: "hook", takes: 3 * time.Second}))
		s.down["a:1"] = true
		s.comes(guest{name: "x"})
		s.expect(`
			0s hook x begins
			3s hook x done
			3s x not at 1 a:1
			3.5s hook x begins
			6.5s hook x done
			6.5s x not at 1 a:1
			7.5s hook x begins
			10.5s hook x done
			10.5s x not at 1 a:1
			11s x refused: wait_timeout`)
	})
}
