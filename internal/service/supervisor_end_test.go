package service

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A lazy process that ends with status 0 when it has nothing more to do stays stopped until
// the next client comes.
func TestSupervisorLazyFinishes(t *testing.T) {
	perform(t, &Service{Start: StartLazy}, func(s *stage) {
		s.come()
		s.Reached()
		s.leave()
		s.sleep(3 * time.Second)
		s.finish()
		if got := s.Snapshot(); got.State != status.ProcessStopped || got.PID != 0 || got.Failed != "" || got.LastReason != status.RestartExit {
			t.Errorf("found %+v, expected it stopped, for its own end", got)
		}
		s.sleep(time.Minute)
		s.serve(time.Second)
		s.last().exit() // with an error
		s.sleep(2 * time.Second)
		if n := s.Snapshot().Restarts[status.RestartExit]; n != 1 {
			t.Errorf("found %d restarts, expected 1: after the error only", n)
		}
	},
		"0s: out, start 1", "1s: in, started", "4s: exit 1, out, stopped exit, in",
		"1m4s: out, start 2", "1m5s: in, started", "1m6s: exit 2, out, start 3", "1m7s: in, restarted exit")
}

// A lazy process that ends soon with status 0, and has served no client, has failed all the same:
// clients that go back in line would start it again and again. After the pause it stays stopped until
// the next client comes.
func TestSupervisorLazyFinishesForNoClient(t *testing.T) {
	finishes := func(s *stage) {
		s.come()
		s.finish()
		s.Ended(false, false)
		s.release()
		if got := s.Snapshot(); got.State != status.ProcessBackingOff || got.Failed == "" {
			t.Errorf("found %+v, expected a back-off", got)
		}
	}
	perform(t, &Service{Start: StartLazy}, func(s *stage) {
		finishes(s)
		s.sleep(time.Minute)
		if got := s.Snapshot(); got.State != status.ProcessStopped || got.Failed == "" {
			t.Errorf("found %+v, expected it stopped, and why it has failed", got)
		}
		finishes(s)
		s.sleep(time.Minute)
		s.serve(time.Second)
	},
		"0s: out, start 1", "1s: in, started, exit 1, out", "2s: stopped exit, in",
		"1m1s: out, start 2", "1m2s: in, started, exit 2, out", "1m4s: stopped exit, in",
		"2m2s: out, start 3", "2m3s: in, started")

	// An operator or a reload can ask for the next one.
	for _, c := range []struct {
		asks func(*stage)
		want []string
	}{
		{func(s *stage) { s.Restart(status.RestartRequest) }, []string{"1.5s: start 2", "2.5s: in, restarted exit"}},
		{func(s *stage) { s.Replace(&Service{Start: StartLazy, Command: "x"}) }, []string{"1.5s: start x2", "2.5s: in, restarted exit"}},
		{func(s *stage) { s.Replace(new(Service)) }, []string{"2s: start 2", "3s: in, restarted exit"}}, // it is eager now
	} {
		perform(t, &Service{Start: StartLazy}, func(s *stage) {
			finishes(s)
			s.sleep(500 * time.Millisecond)
			c.asks(s)
			s.sleep(2 * time.Second)
			if got := s.Snapshot(); got.State != status.ProcessReady || got.Due != "" {
				t.Errorf("found %+v, expected it ready", got)
			}
		}, append([]string{"0s: out, start 1", "1s: in, started, exit 1, out"}, c.want...)...)
	}
}

// The client may turn out to have reached the process after the process has ended. Then the end was no
// failure: the next process is started at once, or a lazy process that has finished rests.
func TestSupervisorReachedLate(t *testing.T) {
	late := func(s *stage) {
		s.come()
		s.finish()
		if got := s.Snapshot(); got.State != status.ProcessBackingOff || got.Failed == "" {
			t.Errorf("found %+v, expected a back-off", got)
		}
		s.sleep(500 * time.Millisecond)
		s.Reached()
		synctest.Wait()
		if got := s.Snapshot(); got.Failed != "" {
			t.Errorf("found %+v, expected no failure", got)
		}
		s.leave()
		s.sleep(10 * time.Second)
	}
	perform(t, &Service{}, func(s *stage) { s.sleep(time.Second); late(s) },
		"0s: out, start 1", "1s: in, started, exit 1, out", "1.5s: start 2", "2.5s: in, restarted exit")
	perform(t, &Service{Start: StartLazy}, late,
		"0s: out, start 1", "1s: in, started, exit 1, out", "1.5s: stopped exit, in")
}

// A late sign that a client has reached its process says nothing about the process that is started
// after that.
func TestSupervisorReachedTooLate(t *testing.T) {
	perform(t, &Service{}, func(s *stage) {
		s.sleep(time.Second)
		s.come()
		s.let(func() { s.startErr = errors.New("no such file") })
		s.last().exit()
		s.sleep(1500 * time.Millisecond)
		s.Reached()
		s.sleep(time.Second)
		if got := s.Snapshot(); got.Failed != "start failed: no such file" {
			t.Errorf("found %+v, expected the failure of the second start", got)
		}
		s.leave()
	},
		"0s: out, start 1", "1s: in, started, exit 1, out", "2s: no start, failed exit")
}

// Clients that have gone before they reached the process do not bring its restart nearer.
func TestSupervisorEveryCountsReached(t *testing.T) {
	perform(t, &Service{RestartEvery: 2}, func(s *stage) {
		s.sleep(time.Second)
		for range 40 {
			s.come()
			s.Ended(false, false)
			s.release()
		}
		s.serve(time.Second)
		if n := s.Snapshot().Connections; n != 1 {
			t.Errorf("found %d connections, expected 1", n)
		}
	},
		"0s: out, start 1", "1s: in, started")
}

// Clients that have reached the process and do not count bring its restart no nearer either, but
// with restart every 1, since the process may have ended with them. A process that ends after
// one of them has not failed.
func TestSupervisorEveryOfMuteClients(t *testing.T) {
	mute := func(s *stage) {
		s.come()
		s.Reached()
		s.Ended(true, false)
		s.release()
	}
	perform(t, &Service{RestartEvery: 2}, func(s *stage) {
		s.sleep(time.Second)
		for range 40 {
			mute(s)
		}
		s.serve(time.Second)
		s.last().exit()
		s.sleep(1500 * time.Millisecond)
		mute(s)
		s.last().exit()
		s.sleep(1500 * time.Millisecond)
	},
		"0s: out, start 1", "1s: in, started",
		"2s: exit 1, out, start 2", "3s: in, restarted exit",
		"3.5s: exit 2, out, start 3", "4.5s: in, restarted exit")
	perform(t, &Service{RestartEvery: 1}, func(s *stage) {
		s.sleep(1500 * time.Millisecond)
		mute(s)
		s.sleep(3 * time.Second)
	},
		"0s: out, start 1", "1s: in, started",
		"1.5s: out, term 1", "2.5s: exit 1, start 2", "3.5s: in, restarted every")
}

// The status has the reason of a failed start until a start succeeds, also during the next starts. A
// client that comes during a start waits for it, and does not get the error of the one before.
func TestSupervisorFailureStays(t *testing.T) {
	perform(t, &Service{Start: StartLazy}, func(s *stage) {
		s.let(func() { s.readyErr = errors.New("not open after 1s") })
		s.grant()
		if err := s.Ready(s.t.Context()); err == nil {
			t.Error("found no error, expected that the start has failed")
		}
		s.leave()
		s.let(func() { s.readyErr = nil })
		s.sleep(2500 * time.Millisecond)
		if got := s.Snapshot(); got.State != status.ProcessStarting || got.Failed != "start failed: not open after 1s" {
			t.Errorf("found %+v, expected the second start, and why the first has failed", got)
		}
		s.let(func() { s.held = true })
		if err := s.Ready(s.t.Context()); err != nil {
			t.Errorf("found %v, expected that a start that is under way is waited for", err)
		}
		if got := s.Snapshot(); got.Failed != "" {
			t.Errorf("found %+v, expected no failure of a process that is ready", got)
		}
		s.leave()
	},
		"0s: out, start 1", "1s: failed, term 1", "2s: exit 1", "3s: start 2", "4s: in, started")
}
