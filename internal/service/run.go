package service

// What the goroutine of a supervisor does. It holds the mutex, but for what is in outside and wait.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func (s *Supervisor) run() {
	defer s.slot.Gone()
	defer close(s.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.awaitOthers()
	for s.rest() {
		p, err := s.start()
		if err == nil {
			s.watch(p)
		}
		if p != nil {
			s.end(p)
		}
	}
	s.awaitOthers() // also after Halt: what waits for this end waits for theirs as well
	s.set(status.ProcessStopped)
	if s.ended != "" {
		s.tell(status.Event{Event: status.EventStopped, Reason: status.StopAsked})
	}
}

// outside runs f without the mutex.
func (s *Supervisor) outside(f func(logger *zap.Logger)) {
	id := s.id
	s.mu.Unlock()
	defer s.mu.Lock()
	f(s.logger().With(zap.String("lock", id.Lock), zap.Int("slot", id.Slot)))
}

// wait waits until the state has changed, over is closed, or d has passed.
func (s *Supervisor) wait(over <-chan struct{}, d time.Duration) {
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-over:
	case <-timer.C:
	}
}

// awaitOthers waits for the processes at the same place to exit.
func (s *Supervisor) awaitOthers() {
	for len(s.before) > 0 {
		end := s.before[0]
		s.before = s.before[1:]
		s.outside(func(*zap.Logger) { <-end })
	}
}

// rest waits until the process is to be started: while it is stopped, or backs off. It returns
// false after Halt.
func (s *Supervisor) rest() bool {
	if s.ended == status.StopIdle || !s.wanted && !s.failing {
		s.tellStopped()
	}
	if s.now.PID = 0; !clock.IsOver(s.gone) {
		close(s.gone)
	}
	var pauseOver time.Time
	switch {
	case s.failing:
		pauseOver = time.Now().Add(backOff(s.row))
		s.set(status.ProcessBackingOff)
	case !s.wanted:
		s.set(status.ProcessStopped)
	}
	for !s.closed {
		pause := time.Until(pauseOver)
		paid := pause <= 0 || s.row == 0 // the latter if the end was no failure after all
		switch {
		case s.wanted && (paid || s.now.Due != ""):
			return true
		case !paid:
			s.wait(nil, pause)
		case s.now.State != status.ProcessBackingOff:
			s.wait(nil, math.MaxInt64)
		case s.ended != "":
			s.tellStopped()
		default:
			s.failing, s.now.Due = false, ""
			s.set(status.ProcessStopped)
		}
	}
	return false
}

// tellStopped reports that nothing replaces the last process, if there was one.
func (s *Supervisor) tellStopped() {
	if why := s.ended; why != "" {
		s.ended = ""
		s.tell(status.Event{Event: status.EventStopped, Reason: why})
	}
}

func backOff(failures int) time.Duration {
	return min(minBackOff<<min(failures-1, 10), maxBackOff)
}

// start starts the process and waits until it is ready. With an error it may still return a
// process, which must be ended.
func (s *Supervisor) start() (p Process, err error) {
	s.awaitOthers()
	s.gone = make(chan struct{})
	s.now.Due, s.now.Connections = "", 0
	s.failing, s.guest, s.met = false, absent, false // s.now.Failed stays until one is ready
	s.set(status.ProcessStarting)
	spec, id := s.spec, s.id
	s.outside(func(*zap.Logger) { p, err = s.launch(spec, id, s.logger) })
	if err == nil {
		err = s.await(p)
	}

	e := status.Event{Event: status.EventStarted, Reason: s.ended, PID: s.now.PID}
	switch {
	case err == errAbandoned:
		s.set(status.ProcessStopping)
		return p, err
	case err != nil:
		e.Event, e.Error = status.EventFailed, err.Error()
		s.fail(fmt.Sprintf("start failed: %v", err))
		s.set(status.ProcessStopping)
	default:
		if s.ended != "" {
			e.Event = status.EventRestarted
			s.now.Restarts[s.ended]++
		}
		s.used, s.now.Failed = time.Now(), ""
		s.slot.Fresh()
		s.set(status.ProcessReady)
	}
	s.tell(e)
	return p, err
}

// await waits until p is ready.
func (s *Supervisor) await(p Process) (err error) {
	s.now.PID = p.PID()
	ctx, cancel := context.WithCancel(context.Background())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		err = p.Ready(ctx)
	}()
	for !clock.IsOver(answered) && !s.isAbandoned() {
		s.wait(answered, math.MaxInt64)
	}
	abandoned := s.isAbandoned()
	cancel()
	s.outside(func(*zap.Logger) { <-answered })
	switch {
	case abandoned:
		return errAbandoned
	case clock.IsOver(p.Exited()):
		return cmp.Or(err, errors.New("it has ended when it was just ready: "+ending(p)))
	}
	return err
}

// isAbandoned reports whether a start is to be given up. Only other settings can be due then.
func (s *Supervisor) isAbandoned() bool { return s.closed || s.now.Due != "" }

// watch waits until p has ended or is to be ended.
func (s *Supervisor) watch(p Process) {
	for weighAt := time.Now().Add(memoryInterval); ; {
		if clock.IsOver(p.Exited()) {
			s.outside(func(logger *zap.Logger) {
				logger.Warn("service has ended", zap.Int("pid", p.PID()), zap.String("status", ending(p)))
			})
			s.leave(p, status.RestartExit)
			return
		}
		why, next := s.nextEnd()
		if why != "" {
			s.leave(p, why)
			return
		}
		if rest := time.Until(weighAt); rest > 0 {
			s.wait(p.Exited(), min(next, rest))
		} else {
			weighAt = weighAt.Add(memoryInterval)
			s.weigh(p)
		}
	}
}

func ending(p Process) string {
	if err := p.Cause(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

// nextEnd returns why the process must end now, or when to check again.
func (s *Supervisor) nextEnd() (why string, next time.Duration) {
	next = math.MaxInt64
	if s.closed {
		return status.StopAsked, 0
	}
	if d := time.Duration(s.spec.RestartInterval); d > 0 && s.now.Due == "" {
		if next = time.Until(s.now.Since.Add(d)); next <= 0 {
			s.require(status.RestartInterval)
		}
	}
	if s.now.Due != "" {
		if s.slot.Out() {
			return s.now.Due, 0
		}
		return "", math.MaxInt64
	}
	if d := time.Duration(s.spec.StopIdle); d > 0 {
		rest := time.Until(s.used.Add(d))
		if rest <= 0 {
			if s.slot.Out() {
				return status.StopIdle, 0
			}
			s.slot.In() // it has a connection
			s.used, rest = time.Now(), d
		}
		next = min(next, rest)
	}
	return "", next
}

// leave records that the process that was ready ends or has ended. A process with a short life has
// failed, unless a connection has reached it or its end was wanted. Its exit status does not
// matter. Whether the holder has reached it may show only later, see Reached.
//
// A lazy process that has ended with status 0 had nothing more to do: it rests until the next
// connection. If it has failed as well, it rests after the pause: a connection that goes back in
// line would start it again and again.
func (s *Supervisor) leave(p Process, why string) {
	how, finished := "restarted for "+why, false
	if why == status.RestartExit {
		how, finished = ending(p), p.Cause() == nil && s.spec.Start == StartLazy
	}
	s.ended, s.wanted = why, why != status.StopIdle && !finished
	byItself, lived := why == status.RestartExit || why == status.RestartMemory, time.Since(s.now.Since)
	if byItself && !s.met && s.guest != arrived && lived < shortLife {
		s.fail(fmt.Sprintf("it has lived for %s only: %s", lived.Round(time.Millisecond), how))
	} else {
		s.row = 0
	}
	if s.guest == admitted && s.failing {
		s.guest = doubted
	} else {
		s.guest = absent
	}
	s.now.Due, s.now.LastReason = "", why
	s.set(status.ProcessStopping)
}

// fail records that a process has failed.
func (s *Supervisor) fail(why string) {
	s.row++
	s.failing, s.now.Failed = true, why
}

// weigh checks the memory of p against the limit, if there is one.
func (s *Supervisor) weigh(p Process) {
	limit, used := uint64(s.spec.MaxMemory), uint64(0)
	if limit == 0 || s.now.Due != "" {
		return
	}
	s.outside(func(logger *zap.Logger) {
		var err error
		if used, err = p.Memory(); err != nil {
			logger.Debug("memory cannot be read", zap.Error(err)) // most likely it has just ended
		} else if used > limit {
			logger.Info("service has more memory than it may", zap.Int("pid", p.PID()),
				zap.String("resident", humanize.IBytes(used)), zap.String("max_memory", humanize.IBytes(limit)))
		}
	})
	if used > limit {
		s.require(status.RestartMemory)
	}
}

// end ends p and waits for its exit. After Halt it does not wait forever: a process that hangs in
// the kernel does not die. Otherwise it waits, because the next process could not have its
// address.
func (s *Supervisor) end(p Process) {
	patience := cmp.Or(time.Duration(s.spec.StopTimeout), defaultStopTimeout)
	s.outside(func(*zap.Logger) { p.Terminate() })
	for over, killed := false, false; ; killed, patience = true, proc.KillDelay {
		s.outside(func(logger *zap.Logger) {
			switch over = clock.Wait(p.Exited(), patience); {
			case over:
				p.Release()
			case killed:
				logger.Error("service does not end although it was killed", zap.Int("pid", p.PID()))
			default:
				logger.Warn("service has not ended in time, killing it", zap.Int("pid", p.PID()), zap.Duration("stop_timeout", patience))
			}
		})
		if over || killed && s.closed {
			return
		}
		s.outside(func(*zap.Logger) { p.Kill() })
	}
}

// tell logs e and passes it to note.
func (s *Supervisor) tell(e status.Event) {
	e.Slot, e.Worker = s.id.Slot, s.id.Worker
	s.outside(func(logger *zap.Logger) {
		fields := []zap.Field{zap.Int("pid", e.PID), zap.String("reason", e.Reason)}
		if e.Error != "" {
			logger.Error("service failed to start", append(fields, zap.String("error", e.Error))...)
		} else {
			logger.Info("service "+e.Event, fields...)
		}
		if s.note != nil {
			s.note(e)
		}
	})
}
