package service

// What the goroutine of a supervisor does; see supervisor.go.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func (s *Supervisor) run() {
	defer s.slot.Gone()
	defer close(s.done)
	s.mu.Lock()
	s.awaitOthers()
	s.mu.Unlock()
	why := "" // the last process that was ready has ended; empty if there is none to replace
	for s.rest(&why) {
		p, err := s.start(why)
		if err == nil {
			why = s.watch(p)
		}
		if p != nil {
			s.end(p)
		}
	}
	s.mu.Lock()
	s.awaitOthers() // also after Halt: what waits for this end waits for theirs as well
	s.now.PID = 0
	s.set(status.ProcessStopped)
	s.mu.Unlock()
	if why != "" {
		s.tell(Event{Name: status.EventStopped, Reason: status.StopAsked})
	}
}

// awaitOthers waits for the processes at the same place to exit. The mutex is held, and released
// meanwhile.
func (s *Supervisor) awaitOthers() {
	for len(s.before) > 0 {
		end := s.before[0]
		s.before = s.before[1:]
		s.mu.Unlock()
		<-end
		s.mu.Lock()
	}
}

// rest waits until the process is to be started: while it is stopped, or backs off. It returns
// false after Halt. why becomes empty if the next process replaces no other.
func (s *Supervisor) rest(why *string) bool {
	s.tellRest(why)
	var pauseOver <-chan time.Time
	pause := s.layDown()
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		pauseOver = timer.C
	}
	for {
		s.mu.Lock()
		// The end of the last one has turned out to be no failure, or is paid for.
		if !s.wanted && s.now.State == status.ProcessBackingOff && (pause == 0 || s.failures == 0) {
			s.failing, s.now.Due = false, ""
			s.set(status.ProcessStopped)
		}
		start, closed := s.wanted && (pause == 0 || s.failures == 0 || s.now.Due != ""), s.closed
		s.mu.Unlock()
		if start || closed {
			return !closed
		}
		select {
		case <-pauseOver:
			pause = 0
			s.mu.Lock()
			s.resting = !s.wanted
			s.mu.Unlock()
			s.tellRest(why)
		case <-s.kick:
			s.tellRest(why)
		case <-s.quit:
		}
	}
}

// tellRest reports that the last process is not replaced, if that was just decided.
func (s *Supervisor) tellRest(why *string) {
	s.mu.Lock()
	resting := s.resting
	s.resting = false
	s.mu.Unlock()
	if resting && *why != "" {
		s.tell(Event{Name: status.EventStopped, Reason: *why})
		*why = ""
	}
}

// layDown records that there is no process, and returns how long to wait before a start.
func (s *Supervisor) layDown() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.PID, s.exists = 0, false
	for _, former := range s.former {
		close(former)
	}
	s.former = nil
	switch {
	case s.failing:
		s.set(status.ProcessBackingOff)
		return backOff(s.failures)
	case !s.wanted:
		s.set(status.ProcessStopped)
	}
	return 0
}

func backOff(failures int) time.Duration {
	return min(minBackOff<<min(failures-1, 10), maxBackOff)
}

// start starts the process and waits until it is ready. With an error it may still return a
// process, which must be ended.
func (s *Supervisor) start(why string) (Process, error) {
	s.mu.Lock()
	s.awaitOthers()
	spec, id := s.spec, s.id
	s.exists = true
	s.now.Due, s.now.Connections = "", 0
	s.failing, s.doubted, s.met = false, false, false // s.now.Failed stays until one is ready
	s.set(status.ProcessStarting)
	s.mu.Unlock()
	p, err := s.launch(spec, id)
	if err == nil {
		err = s.await(p)
	}

	e := Event{Name: status.EventStarted, Reason: why, Err: err}
	if why != "" {
		e.Name = status.EventRestarted
	}
	s.mu.Lock()
	e.PID = s.now.PID
	switch {
	case err == nil:
		if why != "" {
			s.now.Restarts[why]++
		}
		s.used, s.now.Failed = time.Now(), ""
		s.slot.Fresh()
		s.set(status.ProcessReady)
	case errors.Is(err, errAbandoned):
		s.set(status.ProcessStopping)
	default:
		e.Name = status.EventFailed
		s.fail(fmt.Sprintf("start failed: %v", err))
		s.set(status.ProcessStopping)
	}
	s.mu.Unlock()
	if !errors.Is(err, errAbandoned) {
		s.tell(e)
	}
	return p, err
}

// await waits until p is ready.
func (s *Supervisor) await(p Process) error {
	s.mu.Lock()
	s.now.PID = p.PID()
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	answer := make(chan error, 1)
	var asked sync.WaitGroup
	asked.Go(func() { answer <- p.Ready(ctx) })
	defer asked.Wait()
	defer cancel()
	for {
		s.mu.Lock()
		abandoned := s.closed || s.now.Due != "" // which can only be config
		s.mu.Unlock()
		if abandoned {
			return errAbandoned
		}
		select {
		case err := <-answer:
			select {
			case <-p.Exited():
				return cmp.Or(err, errors.New("it has ended when it was just ready: "+ending(p)))
			default:
				return err
			}
		case <-s.kick:
		case <-s.quit:
		}
	}
}

// watch waits until p has ended or is to be ended, and returns why.
func (s *Supervisor) watch(p Process) (why string) {
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	memory := time.NewTicker(memoryInterval)
	defer memory.Stop()
	for {
		why, next := s.look()
		if why != "" {
			return why
		}
		timer.Reset(next)
		select {
		case <-p.Exited():
			s.logger().Warn("service has ended", zap.Int("pid", p.PID()), zap.String("status", ending(p)))
			s.mu.Lock()
			defer s.mu.Unlock()
			s.clean = p.Cause() == nil
			s.leave(status.RestartExit, ending(p))
			return status.RestartExit
		case <-memory.C:
			s.weigh(p)
		case <-timer.C:
		case <-s.kick:
		case <-s.quit:
		}
	}
}

func ending(p Process) string {
	if err := p.Cause(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

// look returns why the process must end now, or when to check again.
func (s *Supervisor) look() (why string, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = math.MaxInt64
	if s.closed {
		s.leave(status.StopAsked, "")
		return status.StopAsked, 0
	}
	if d := time.Duration(s.spec.RestartInterval); d > 0 && s.now.Due == "" {
		if next = time.Until(s.now.Since.Add(d)); next <= 0 {
			s.require(status.RestartInterval)
		}
	}
	if why = s.now.Due; why != "" {
		if !s.slot.Out() {
			return "", math.MaxInt64
		}
		s.leave(why, "restarted for "+why)
		return why, 0
	}
	if d := time.Duration(s.spec.StopIdle); d > 0 {
		rest := time.Until(s.used.Add(d))
		if rest <= 0 {
			if s.slot.Out() {
				s.leave(status.StopIdle, "")
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
// matter. Whether the holder has reached it may show only later, see Reached. The mutex is held.
func (s *Supervisor) leave(why, how string) {
	lived := time.Since(s.now.Since)
	s.wanted, s.resting = why != status.StopIdle, why == status.StopIdle
	switch byItself := why == status.RestartExit || why == status.RestartMemory; {
	case byItself && !s.met && !s.arrived && lived < shortLife:
		s.fail(fmt.Sprintf("it has lived for %s only: %s", lived.Round(time.Millisecond), how))
		s.doubted = s.letIn
		s.wanted = why != status.RestartExit || !s.finished()
	case why == status.RestartExit:
		s.failures = 0
		s.replaceOrRest()
	default:
		s.failures = 0
	}
	s.letIn, s.arrived = false, false
	s.now.Due, s.now.LastReason = "", why
	s.set(status.ProcessStopping)
}

// fail records that a process has failed. The mutex is held.
func (s *Supervisor) fail(why string) {
	s.failures++
	s.failing, s.now.Failed = true, why
}

// weigh checks the memory of p against the limit, if there is one.
func (s *Supervisor) weigh(p Process) {
	s.mu.Lock()
	limit, due := uint64(s.spec.MaxMemory), s.now.Due
	s.mu.Unlock()
	if limit == 0 || due != "" {
		return
	}
	used, err := p.Memory()
	if err != nil {
		s.logger().Debug("memory cannot be read", zap.Error(err)) // most likely it has just ended
		return
	}
	if used <= limit {
		return
	}
	s.logger().Info("service has more memory than it may", zap.Int("pid", p.PID()),
		zap.String("resident", humanize.IBytes(used)), zap.String("max_memory", humanize.IBytes(limit)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.require(status.RestartMemory)
}

// end ends p and waits for its exit. After Halt it does not wait forever: a process that hangs in
// the kernel does not die. Otherwise it waits, because the next process could not have its
// address.
func (s *Supervisor) end(p Process) {
	s.mu.Lock()
	timeout := cmp.Or(time.Duration(s.spec.StopTimeout), defaultStopTimeout)
	s.mu.Unlock()
	p.Terminate()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for killed := false; ; killed = true {
		select {
		case <-p.Exited():
			p.Release()
			return
		case <-timer.C:
		}
		if killed {
			s.logger().Error("service does not end although it was killed", zap.Int("pid", p.PID()))
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return
			}
		} else {
			s.logger().Warn("service has not ended in time, killing it", zap.Int("pid", p.PID()), zap.Duration("stop_timeout", timeout))
		}
		p.Kill()
		timer.Reset(proc.KillDelay)
	}
}

// tell logs e and passes it to note.
func (s *Supervisor) tell(e Event) {
	e.ID = s.identity()
	fields := []zap.Field{zap.Int("pid", e.PID), zap.String("reason", e.Reason)}
	if e.Err != nil {
		s.logger().Error("service failed to start", append(fields, zap.Error(e.Err))...)
	} else {
		s.logger().Info("service "+e.Name, fields...)
	}
	if s.note != nil {
		s.note(e)
	}
}
