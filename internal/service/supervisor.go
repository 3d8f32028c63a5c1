package service

// The supervisor: the process behind one slot. It goes through these states:
//
//	           ready, start lazy                 due, and the slot is vacant
//	stopped ───────────────────▶ starting ──▶ ready ──────────▶ stopping
//	   ▲                          ▲  │ ▲        │ exit             │ │
//	   │             time is over │  │ └────────┤◀─────────────────┘ │ restart
//	   │                          │  ▼ failed   ▼ short life         │
//	   │                         backing off ◀──┘                    │
//	   └─────────────────────────────── idle, stop ──────────────────┘
//
// One goroutine (run, in run.go) starts the process, waits for it, and ends it; no other
// touches it. The methods only note something under the mutex and wake that goroutine, so
// they never wait, but for Ready (until the process is ready).
//
// The slot follows from the state, and nothing else takes it out or lets it in:
//
//	in  <=>  not closed, and stopped and not wanted, or ready and nothing due
//
// This is made true (settle) in the same hold of the mutex in which the state changes.
// So when Ended or Restart has returned, the slot is not handed on any more, although
// the goroutine may know of nothing yet. Taking it out and asking whether it is
// vacant is one step of the queue's; a process is ended only when the answer was yes, or
// by Halt. Vacated is no more than a sign to ask again: by the time it comes, the slot
// may have a new holder already, which was granted it before it was taken out. Such a
// holder meets a process that is ready still, and the restart waits for its end too.
//
// A process that ends by itself is not waited for like that: the holder of the slot
// has lost it anyway. A holder that has not reached it yet waits in Ready for the next.
//
// The mutex may be held when the slot is taken out or let in, and never over
// anything that takes time: starting, reading memory, logging.

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Slot is the slot, as its supervisor uses it. All methods except Gone are called with the
// supervisor's mutex held: they must not block and must not call the supervisor.
type Slot interface {
	Out() (vacant bool) // grants the slot no more, and reports whether it has no holder; idempotent
	In()                // lets the slot be granted again; idempotent
	Fresh()             // the process has just become ready; In follows
	Gone()              // the supervisor has ended
}

// Event is something that happened to a process.
type Event struct {
	ID
	Name   string // status.EventStarted, EventRestarted, EventStopped or EventFailed
	Reason string // restarted, stopped
	PID    int    // 0 if there is none
	Err    error  // failed
}

const (
	memoryInterval = 5 * time.Second

	shortLife  = 10 * time.Second // less, and no connection served: there is a pause before the next start
	minBackOff = time.Second
	maxBackOff = time.Minute
)

var (
	errAbandoned = errors.New("not wanted any more")
	errNoService = errors.New("the service is stopped")
)

// Supervisor runs the process behind one slot.
type Supervisor struct {
	slot   Slot
	logger func() *zap.Logger
	note   func(Event)
	launch func(*Service, ID) (Process, error)

	kick chan struct{} // capacity 1: check the state again
	quit chan struct{} // closed by Halt
	done chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	id       ID
	before   []<-chan struct{} // the exits for which this one waits
	former   []chan struct{}   // closed when no process is left that was started under a former name
	spec     *Service          // of the next start; settings that need no restart apply at once
	now      status.Process
	exists   bool          // there is a process, or one is being started
	wanted   bool          // to be started
	closed   bool          // Halt was called
	failures int           // in a row
	failing  bool          // the last process has failed, and the next start has not begun
	letIn    bool          // the holder was let in to the current process
	arrived  bool          // the holder has reached the current process
	met      bool          // an earlier connection has reached the current process
	doubted  bool          // the holder was let in to the last process, which has failed unless the holder has reached it
	clean    bool          // the last process has ended by itself with status 0
	resting  bool          // no process replaces the last one until one is asked for; not reported yet
	used     time.Time     // when the slot last had a connection
	changed  chan struct{} // closed when the state has changed
}

// Supervise starts a supervisor, and the process unless it is lazy. If it starts the process, the
// slot is out when Supervise returns. Until all channels in before are closed, the supervisor does
// nothing and its slot is out. logger returns the current logger. note, if not nil, gets the
// events one after the other. End the supervisor with Halt.
func Supervise(spec *Service, id ID, slot Slot, logger func() *zap.Logger, note func(Event), before ...<-chan struct{}) *Supervisor {
	return superviseWith(Starting, spec, id, slot, logger, note, before...)
}

// Starting starts the processes; tests have their own.
var Starting Starter = startProcess

func superviseWith(launch Starter, spec *Service, id ID, slot Slot, logger func() *zap.Logger, note func(Event), before ...<-chan struct{}) *Supervisor {
	s := &Supervisor{
		id:   id,
		slot: slot,
		note: note,
		launch: func(s *Service, id ID) (Process, error) {
			return launch(s, id, func() *zap.Logger { return logger().Named("service") })
		},
		before:  before,
		kick:    make(chan struct{}, 1),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
		spec:    spec,
		wanted:  spec.Start != StartLazy,
	}
	s.logger = func() *zap.Logger {
		id := s.identity()
		return logger().Named("service").With(zap.String("lock", id.Lock), zap.Int("slot", id.Slot))
	}
	s.now.Restarts = make(map[string]int)
	state := status.ProcessStopped
	if len(before) > 0 {
		state = status.ProcessStopping // which a predecessor is
	}
	s.mu.Lock()
	s.set(state)
	s.mu.Unlock()
	go s.run()
	return s
}

// Ready is called for a connection that holds the slot, before anything else. It
// returns nil when the process is ready, at once if it is. With start lazy it starts it.
// On an error the start has failed, and the slot is out already.
func (s *Supervisor) Ready(ctx context.Context) error {
	for {
		changed, err := s.enter()
		if changed == nil || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// enter lets a holder to the process. If there is none yet, it returns what to wait for.
func (s *Supervisor) enter() (wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, errNoService
	case s.now.State == status.ProcessReady:
		s.letIn = true
		return nil, nil
	case s.failing:
		return nil, errors.New(s.now.Failed)
	case s.now.State == status.ProcessStopped:
		s.wanted = true
		s.settle()
		s.wake()
	}
	return s.changed, nil
}

// Missed is called when the holder has not reached the process to which it was let in. It reports
// whether that process still runs.
func (s *Supervisor) Missed() (runs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs = s.letIn
	s.letIn, s.arrived = false, false
	return runs
}

// Reached is called at the first sign that the holder has reached the process to which it was let
// in. The end of the process may be known before: then it was no failure, and the next process is
// started at once.
func (s *Supervisor) Reached() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.letIn:
		s.arrived = true
	case s.doubted:
		s.doubted, s.failing, s.failures, s.now.Failed = false, false, 0, ""
		s.replaceOrRest()
		s.wake()
	}
}

// Ended is called when the holder's connection is over and its slot not given back
// yet. It says whether the connection has reached the service, and whether it counts for
// restart every. One that was not let to the process that runs now has done neither. With
// restart every 1 each that has reached it counts: the process may end after any connection.
func (s *Supervisor) Ended(reached, counts bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
	reached = reached && s.letIn
	s.met = s.met || reached
	s.letIn, s.arrived, s.doubted = false, false, false
	if !reached || !counts && s.spec.RestartEvery != 1 {
		return
	}
	s.now.Connections++
	if n := s.spec.RestartEvery; n > 0 && s.now.Connections >= n {
		s.require(status.RestartEvery)
	}
}

// Vacated is called when the slot has been given back.
func (s *Supervisor) Vacated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.Due != "" {
		s.wake()
	}
}

// Restart restarts the process between two clients of the slot. It does nothing while the process
// is being started or stopped, or does not run. In a back-off the next start comes at once.
func (s *Supervisor) Restart(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.State == status.ProcessReady || s.now.State == status.ProcessBackingOff {
		s.require(reason)
	}
}

// Replace activates other settings, but not after Halt. If they mean another process, the process
// is restarted, and a start that is under way is given up, even if it would succeed.
func (s *Supervisor) Replace(spec *Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.spec
	s.spec = spec
	starts := s.now.State == status.ProcessStarting || s.now.State == status.ProcessBackingOff
	switch {
	case (starts || s.now.State == status.ProcessReady) && !spec.sameProcess(old), starts && !spec.sameReady(old):
		s.failures = 0
		s.require(status.RestartConfig)
	case s.now.State != status.ProcessReady && old.Start == StartLazy && spec.Start != StartLazy:
		s.wanted = true
	}
	s.settle()
	s.wake()
}

// Rename gives the process's lock another name. A process that runs has the old one in its
// environment, and is restarted. Before the next start the supervisor waits until all
// channels in before are closed. The channel that it returns is closed when no process of the
// old name is left.
func (s *Supervisor) Rename(name string, before ...<-chan struct{}) (over <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id.Lock = name
	s.before = append(s.before, before...)
	former := make(chan struct{})
	if s.exists {
		s.former = append(s.former, former)
	} else {
		close(former)
	}
	if s.now.State == status.ProcessStarting || s.now.State == status.ProcessReady {
		s.failures = 0
		s.require(status.RestartConfig)
	}
	return former
}

func (s *Supervisor) identity() ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Done returns a channel that is closed when the supervisor has ended.
func (s *Supervisor) Done() <-chan struct{} { return s.done }

// Halt ends the process, whether or not the slot has a holder, and the supervisor. It waits for
// neither. The slot stays out.
func (s *Supervisor) Halt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.quit)
		s.set(s.now.State)
	}
}

func (s *Supervisor) Snapshot() status.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now
	now.Restarts = maps.Clone(now.Restarts)
	return now
}

// Call everything below with the mutex held.

// replaceOrRest decides whether another process replaces one that has ended by itself and has not
// failed.
func (s *Supervisor) replaceOrRest() {
	s.resting = s.finished()
	s.wanted = !s.resting
}

// finished reports whether the process that has ended by itself had nothing more to do: it
// ended with status 0, and is lazy. So it rests until the next connection. If it has failed
// as well, it rests after the pause: a connection that goes back in line would start it again
// and again.
func (s *Supervisor) finished() bool { return s.clean && s.spec.Start == StartLazy }

func (s *Supervisor) set(state string) {
	if state != s.now.State {
		s.now.State, s.now.Since = state, time.Now()
	}
	s.settle()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Supervisor) settle() {
	idle := s.now.State == status.ProcessStopped && !s.wanted
	serving := s.now.State == status.ProcessReady && s.now.Due == ""
	if !s.closed && (idle || serving) {
		s.slot.In()
	} else {
		s.slot.Out()
	}
}

func (s *Supervisor) require(reason string) {
	s.wanted = s.wanted || s.now.State == status.ProcessBackingOff
	if s.now.Due == "" {
		s.now.Due = reason
		s.settle()
	}
	s.wake()
}

func (s *Supervisor) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
