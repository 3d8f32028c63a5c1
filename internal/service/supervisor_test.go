package service

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

const second = caddy.Duration(time.Second)

// The process is started with the config, and the slot is granted when it is ready.
func TestSupervisorEager(t *testing.T) {
	perform(t, &Service{}, func(s *stage) {
		if s.grant() {
			t.Error("slot granted before the process was ready")
		}
		s.sleep(3 * time.Second)
		s.serve(time.Second)
	},
		"0s: out, start 1",
		"1s: in, started")
}

// Nothing is started before the first client, which waits for the start; the second does not wait.
// A client that gives up meanwhile does not stop the start.
func TestSupervisorLazy(t *testing.T) {
	perform(t, &Service{Start: "lazy"}, func(s *stage) {
		s.sleep(3 * time.Second)
		s.grant()
		ctx, cancel := context.WithTimeout(s.t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := s.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("found %v, expected the deadline", err)
		}
		s.leave()
		s.sleep(2 * time.Second)
		began := time.Now()
		s.come()
		if d := time.Since(began); d != 0 {
			t.Errorf("waited %s for a process that was ready", d)
		}
	},
		"3s: out, start 1",
		"4s: in, started")
}

// The restart begins when the second client ends: the slot is out before it is given back. A client
// that was not let to the process, because its hooks failed for example, does not count.
func TestSupervisorEvery(t *testing.T) {
	perform(t, &Service{RestartEvery: 2}, func(s *stage) {
		s.sleep(time.Second)
		s.serve(time.Second)
		s.grant()
		s.leave()
		s.come()
		s.sleep(time.Second)
		s.Ended(true, true)
		if !s.taken() {
			t.Error("found the slot in service after the end of the last client, expected it out")
		}
		s.sleep(5 * time.Second) // its release hooks
		s.release()
		s.sleep(5 * time.Second)
		if n := s.Snapshot().Connections; n != 0 {
			t.Errorf("found %d connections of the new process, expected 0", n)
		}
	},
		"0s: out, start 1",
		"1s: in, started",
		"3s: out",
		"8s: term 1",
		"9s: exit 1, start 2",
		"10s: in, restarted every")
}

// A process that has been ready for 10 seconds is restarted: at once if its slot is vacant, else
// when the client has gone. The time begins anew when the next process is ready.
func TestSupervisorInterval(t *testing.T) {
	perform(t, &Service{RestartInterval: 10 * second}, func(s *stage) {
		s.sleep(20 * time.Second)
		s.serve(5 * time.Second)
		s.sleep(2 * time.Second)
	},
		"0s: out, start 1",
		"1s: in, started",
		"11s: out, term 1",
		"12s: exit 1, start 2",
		"13s: in, restarted interval",
		"23s: out",
		"25s: term 2",
		"26s: exit 2, start 3",
		"27s: in, restarted interval")
}

// The supervisor checks the memory every 5 seconds. A process with more than the limit is restarted
// when its client has gone. One that has too much as soon as it runs is not restarted in a loop.
func TestSupervisorMemory(t *testing.T) {
	perform(t, &Service{MaxMemory: 100}, func(s *stage) {
		s.sleep(time.Second)
		s.weighs(100)
		s.come()
		s.sleep(7 * time.Second)
		s.weighs(101)
		s.sleep(4 * time.Second) // it has been seen
		s.weighs(1)
		s.leave()
		s.sleep(2 * time.Second)
		s.weighs(101)
		s.sleep(9 * time.Second)
	},
		"0s: out, start 1",
		"1s: in, started",
		"11s: out",
		"12s: term 1",
		"13s: exit 1, start 2",
		"14s: in, restarted memory",
		"19s: out, term 2",
		"20s: exit 2",
		"21s: start 3",
		"22s: in, restarted memory")
}

// A process that ends by itself is started again. After a short life without a client there is a
// pause, which doubles up to a minute. A connection that holds the slot during the pause gets an
// error at once. After a life long enough there is no pause, and the next pause is short again.
func TestSupervisorBackOff(t *testing.T) {
	perform(t, &Service{}, func(s *stage) {
		s.let(func() { s.readyAfter, s.diesAfter = 0, time.Second })
		s.sleep(2 * time.Second)
		s.let(func() { s.held = true })
		if err := s.Ready(s.t.Context()); err == nil || err.Error() != "it has lived for 1s only: exit status 9" {
			t.Errorf("found %v, expected how briefly it has lived", err)
		}
		s.leave()
		s.sleep(180 * time.Second)
		s.let(func() { s.diesAfter = 10 * time.Second })
		s.sleep(25 * time.Second)
		s.let(func() { s.diesAfter = 3 * time.Second })
		s.sleep(6 * time.Second)
		s.serve(time.Second)
		s.sleep(2 * time.Second)
	},
		"0s: out, start 1", "1s: in, started", "2s: exit 1, out",
		"3s: start 2, in, restarted exit", "4s: exit 2, out",
		"6s: start 3, in, restarted exit", "7s: exit 3, out",
		"11s: start 4, in, restarted exit", "12s: exit 4, out",
		"20s: start 5, in, restarted exit", "21s: exit 5, out",
		"37s: start 6, in, restarted exit", "38s: exit 6, out",
		"1m10s: start 7, in, restarted exit", "1m11s: exit 7, out",
		"2m11s: start 8, in, restarted exit", "2m12s: exit 8, out",
		"3m12s: start 9, in, restarted exit",
		"3m22s: exit 9, out, start 10, in, restarted exit",
		"3m32s: exit 10, out, start 11, in, restarted exit",
		"3m35s: exit 11, out, start 12, in, restarted exit")
}

// A process that ends while it has a client does not wait for the client to go, and that client
// does not count for the next process. A client that has the slot but has not reached the process
// yet waits for the next one.
func TestSupervisorExitWhileHeld(t *testing.T) {
	perform(t, &Service{RestartEvery: 1}, func(s *stage) {
		s.sleep(11 * time.Second)
		s.come()
		s.last().exit()
		s.sleep(2 * time.Second)
		s.leave()
		s.sleep(10 * time.Second)
		s.grant()
		s.last().exit()
		synctest.Wait()
		if err := s.Ready(s.t.Context()); err != nil {
			t.Error(err)
		}
		s.leave()
	},
		"0s: out, start 1",
		"1s: in, started",
		"11s: exit 1, out, start 2",
		"12s: in, restarted exit",
		"23s: exit 2, out, start 3",
		"24s: in, restarted exit, out, term 3")
}

// A restart on request waits for the current client. Before the supervisor learns that this client
// has gone, the slot may be granted to the next client. Then the restart waits for that one too.
func TestSupervisorRequest(t *testing.T) {
	perform(t, &Service{}, func(s *stage) {
		s.sleep(time.Second)
		s.come()
		s.Restart(status.RestartRequest)
		s.Restart(status.RestartHoldTimeout)
		s.sleep(time.Second)
		if due := s.Snapshot().Due; due != "request" {
			t.Errorf("found %q due, expected request", due)
		}
		s.Vacated() // a late word of the client before
		s.sleep(time.Second)
		s.leave()
		s.sleep(time.Millisecond)
		s.Restart(status.RestartRequest) // no use: a new one is on its way
		s.sleep(3 * time.Second)
		s.Restart(status.RestartHoldTimeout) // no client is there
		s.sleep(2 * time.Second)
		if got := s.Snapshot(); got.Restarts["request"] != 1 || got.Restarts["hold_timeout"] != 1 || got.LastReason != "hold_timeout" || got.PID != 103 {
			t.Errorf("found %+v, expected one restart for each reason", got)
		}
	},
		"0s: out, start 1",
		"1s: in, started, out",
		"3s: term 1",
		"4s: exit 1, start 2",
		"5s: in, restarted request",
		"6.001s: out, term 2",
		"7.001s: exit 2, start 3",
		"8.001s: in, restarted hold_timeout")
}

// Settings that mean another process restart it between two clients. Other settings apply at once. A
// start that is under way is given up, a back-off ends early, and the start begins anew.
func TestSupervisorReplace(t *testing.T) {
	perform(t, &Service{Command: "a"}, func(s *stage) {
		s.sleep(time.Second)
		s.come()
		s.Replace(&Service{Command: "a", RestartEvery: 5, RestartInterval: 100 * second})
		if due := s.Snapshot().Due; due != "" {
			t.Errorf("found a restart due for %s, expected none: the process would be the same", due)
		}
		s.Replace(&Service{Command: "b"})
		s.sleep(time.Second)
		s.leave()
		s.sleep(1500 * time.Millisecond)
		s.Replace(&Service{Command: "c"})
		s.sleep(3 * time.Second)
		s.let(func() { s.startErr = errors.New("no such file") })
		s.last().exit()
		s.sleep(4 * time.Second)
		s.Replace(&Service{Command: "d", RestartInterval: 2 * second})
		synctest.Wait()
		s.let(func() { s.startErr = nil })
		s.sleep(5 * time.Second)
		s.Replace(&Service{Command: "d"})
		s.sleep(30 * time.Second)
	},
		"0s: out, start a1", "1s: in, started, out",
		"2s: term 1", "3s: exit 1, start b2",
		"3.5s: term 2", "4.5s: exit 2, start c3", "5.5s: in, restarted config",
		"6.5s: exit 3, out", "7.5s: no start, failed exit", "9.5s: no start, failed exit",
		"10.5s: no start, failed exit", "11.5s: start d4", "12.5s: in, restarted exit",
		"14.5s: out, term 4", "15.5s: exit 4, start d5", "16.5s: in, restarted interval")
}

// Settings that say when the process is ready concern its start: they end a start that is under way,
// and a back-off, and a process that is ready stays. A process that is being stopped because no client
// comes is started again if it is eager now.
func TestSupervisorReplaceStart(t *testing.T) {
	perform(t, &Service{Ready: "a:1"}, func(s *stage) {
		s.sleep(500 * time.Millisecond)
		s.Replace(&Service{Ready: "b:1"})
		s.sleep(4 * time.Second)
		s.Replace(&Service{Ready: "a:1", ReadyTimeout: 1})
		s.sleep(time.Second)
		s.let(func() { s.startErr = errors.New("no such file") })
		s.last().exit()
		s.sleep(1500 * time.Millisecond)
		s.let(func() { s.startErr = nil })
		s.Replace(&Service{Ready: "a:1", ReadyTimeout: 2})
		s.sleep(2 * time.Second)
		s.Replace(&Service{Ready: "a:1", ReadyTimeout: 2, Start: StartLazy, StopIdle: second})
		s.sleep(500 * time.Millisecond)
		s.Replace(&Service{Ready: "a:1", ReadyTimeout: 2})
		s.sleep(5 * time.Second)
	},
		"0s: out, start 1",
		"500ms: term 1", "1.5s: exit 1, start 2", "2.5s: in, started",
		"5.5s: exit 2, out", "6.5s: no start, failed exit",
		"7s: start 3", "8s: in, restarted exit",
		"9s: out, term 3", "10s: exit 3, stopped idle, start 4", "11s: in, started")
}

// After 10 seconds without a connection the process is stopped, and started for the next client. A
// client that is there, or has just come, keeps it running.
func TestSupervisorIdle(t *testing.T) {
	perform(t, &Service{StopIdle: 10 * second}, func(s *stage) {
		s.sleep(6 * time.Second)
		s.serve(30 * time.Second)
		s.sleep(20 * time.Second)
		if got := s.Snapshot(); got.State != status.ProcessStopped || got.PID != 0 || got.LastReason != "idle" {
			t.Errorf("found %+v, expected it stopped for idleness", got)
		}
		s.Restart(status.RestartRequest) // nothing to restart
		s.serve(time.Second)
		s.sleep(9 * time.Second)
		s.serve(0)
		s.sleep(9 * time.Second)
	},
		"0s: out, start 1", "1s: in, started",
		"11s: out, in", "21s: out, in", "31s: out, in", // a client is there
		"46s: out, term 1", "47s: exit 1, stopped idle, in",
		"56s: out, start 2", "57s: in, started")
}

// A process that ignores the request to end is killed after stop_timeout. If it does not die then, the
// supervisor waits: a second process could not have its address. Only stop does not wait.
func TestSupervisorStubborn(t *testing.T) {
	perform(t, &Service{StopTimeout: 3 * second}, func(s *stage) {
		s.let(func() { s.ignores = "term" })
		s.Restart(status.RestartRequest)
		s.sleep(time.Second)
		p := s.last()
		s.let(func() { p.ignores, s.ignores = "term", "kill" })
		s.Restart(status.RestartRequest)
		s.sleep(4 * time.Second)
		s.Restart(status.RestartRequest)
		s.sleep(10 * time.Second)
		began := time.Now()
		s.stop()
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("stop took %s, expected the 3s until the next look", d)
		}
		s.last().exit()
	},
		"0s: out, start 1", "1s: in, started, out, term 1",
		"4s: kill 1, exit 1, start 2", "5s: in, restarted request, out, term 2",
		"8s: kill 2", "13s: kill 2", "18s: stopped stop, exit 2")
}

// stop waits neither for a start, nor for a pause, nor for a client. After it no client reaches
// the process. It may be called twice.
func TestSupervisorStop(t *testing.T) {
	stopAfter := func(after, takes time.Duration) func(*stage) {
		return func(s *stage) {
			s.sleep(after)
			s.grant()
			s.let(func() { s.ends = true })
			began := time.Now()
			s.stop()
			s.stop()
			if d := time.Since(began); d != takes || !s.taken() {
				t.Errorf("stop took %s, and the slot is out %v, expected %s and true", d, s.taken(), takes)
			}
			s.Replace(&Service{Command: "new"})
			s.Restart(status.RestartRequest)
			s.leave()
			if err := s.Ready(s.t.Context()); err == nil {
				t.Error("ready after stop")
			}
		}
	}
	perform(t, &Service{ReadyCommand: []string{"true"}}, stopAfter(500*time.Millisecond, time.Second),
		"0s: out, start 1", "500ms: term 1", "1.5s: exit 1")
	perform(t, &Service{}, stopAfter(time.Minute, time.Second),
		"0s: out, start 1", "1s: in, started", "1m0s: out, term 1", "1m1s: exit 1, stopped stop")
	perform(t, &Service{Start: "lazy"}, stopAfter(time.Minute, 0),
		"1m0s: out")
}

// A start fails: the command is not there, the process ends at once, or is not ready in
// time and is ended. The waiting client gets an error when the slot is already out. The start is
// tried again until it works, also for a lazy process: no client can ask for it.
func TestSupervisorStartFails(t *testing.T) {
	perform(t, &Service{Start: "lazy"}, func(s *stage) {
		s.let(func() { s.startErr = errors.New("no such file") })
		s.grant()
		err := s.Ready(s.t.Context())
		if err == nil || err.Error() != "start failed: no such file" || !s.taken() {
			t.Errorf("found %v and slot out %v, expected no such file and true", err, s.taken())
		}
		s.leave()
		s.let(func() { s.startErr, s.readyErr, s.readyAfter = nil, errors.New("not open after 5s"), 5*time.Second })
		s.sleep(2 * time.Second)
		s.let(func() { s.readyErr = nil })
		time.AfterFunc(10*time.Second, func() { s.last().exit() })
		s.sleep(12 * time.Second)
		if got := s.Snapshot(); got.State != status.ProcessBackingOff || got.Failed != "start failed: it has ended before it was ready: exit status 9" {
			t.Errorf("found %+v, expected a back-off", got)
		}
		s.sleep(10 * time.Second)
	},
		"0s: out, no start, failed",
		"1s: start 1", "6s: failed, term 1", "7s: exit 1",
		"9s: start 2", "12s: exit 2, failed",
		"16s: start 3", "21s: in, started")
}

// A process is renamed in each state. If it is ready or being started, it is restarted; otherwise
// the next start uses the new name. The next start waits for the processes at the new name's
// place. The old name's place is free when the process has ended.
func TestSupervisorRename(t *testing.T) {
	isOver := func(over <-chan struct{}) bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	}
	perform(t, &Service{}, func(s *stage) {
		s.sleep(500 * time.Millisecond)
		starting := s.Rename("one")
		s.sleep(3 * time.Second)
		if !isOver(starting) || s.ID().Lock != "one" {
			t.Error("found the old name's process still there, expected another one")
		}
		s.come()
		before := make(chan struct{})
		ready := s.Rename("two", before)
		s.sleep(time.Second)
		if isOver(ready) {
			t.Error("found the old name's process ended, expected it to serve its client")
		}
		s.leave()
		s.sleep(3 * time.Second)
		if !isOver(ready) {
			t.Error("found the old name's process still there, expected its end")
		}
		close(before)
		s.sleep(1500 * time.Millisecond)
		s.last().exit()
		s.sleep(500 * time.Millisecond)
		if !isOver(s.Rename("three")) { // it backs off
			t.Error("found a process of the old name, expected none")
		}
		s.sleep(3 * time.Second)
	},
		"0s: out, start 1",
		"500ms: term 1",
		"1.5s: exit 1, start 2", "2.5s: in, started",
		"3.5s: out", "4.5s: term 2", "5.5s: exit 2",
		"7.5s: start 3", "8.5s: in, restarted config",
		"9s: exit 3, out", "10s: start 4", "11s: in, restarted exit")
}
