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
// One goroutine (run, in run.go) starts the process, waits for it, and ends it. It holds the mutex
// except while it waits, logs, or does what takes time. The methods change the state and wake that
// goroutine (update). Only Ready waits, until the process is ready.
//
// The slot follows from the state, and nothing else takes it out or lets it in:
//
//	in  <=>  not closed, and stopped and not wanted, or ready and nothing due
//
// update makes this true in the same hold of the mutex in which the state changes. So when Ended or
// Restart has returned, the slot is not granted again, although the goroutine may not know it yet.
// Taking the slot out and asking whether it is vacant is one operation of the queue. A process is
// ended only when the answer was yes, or by Halt. Vacated is only a sign to ask again: the slot may
// have been granted before it was taken out. Such a holder finds the process still ready, and the
// restart waits for its end too.
//
// A process that ends by itself does not wait like that: the holder of the slot has lost it anyway.
// A holder that has not reached it yet waits in Ready for the next.

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
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
	note   func(status.Event)
	launch Starter
	done   chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	changed chan struct{} // closed when the state has changed, and replaced
	id      ID
	spec    *Service // of the next start; settings that need no restart apply at once
	now     status.Process
	wanted  bool // to be started
	closed  bool // Halt was called
	life
	failures
	before []<-chan struct{} // the exits that the next start waits for
}

// life is what is known about the current process, or the last one.
type life struct {
	gone  chan struct{} // closed when there is none, and none is being started
	used  time.Time     // when the slot last had a connection
	met   bool          // an earlier connection has reached it
	guest guest
	ended string // why it has ended since it was ready; empty if nothing replaces it
}

// guest is how far the slot's holder has come with the process.
type guest uint8

const (
	absent   guest = iota
	doubted        // admitted to the last process, which has failed unless the holder has reached it
	admitted       // to the current process
	arrived        // it has reached the current process
)

// failures count the processes that have failed.
type failures struct {
	row     int  // in a row
	failing bool // the last process has failed, and the next start has not begun
}

// Supervise returns a supervisor of processes that launch starts; nil starts real ones. logger
// returns the current logger. note, if not nil, gets the events one after the other. Nothing happens
// before Run. End the supervisor with Halt.
func Supervise(launch Starter, spec *Service, id ID, slot Slot, logger func() *zap.Logger, note func(status.Event)) *Supervisor {
	if launch == nil {
		launch = startProcess
	}
	return &Supervisor{
		slot: slot, logger: func() *zap.Logger { return logger().Named("service") }, note: note, launch: launch,
		done: make(chan struct{}), changed: make(chan struct{}), life: life{gone: make(chan struct{})},
		id: id, spec: spec, wanted: spec.Start != StartLazy,
		now: status.Process{State: status.ProcessStopped, Since: time.Now(), Restarts: make(map[string]int)},
	}
}

// Run starts the process unless it is lazy; then the slot is out when Run returns. Until all
// channels in before are closed, nothing is started and the slot is out.
func (s *Supervisor) Run(before ...<-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
	if len(before) > 0 {
		s.now.State = status.ProcessStopping // which a predecessor is
	}
	s.update()
	go s.run()
}

// Ready is called for a connection that holds the slot, before anything else. It
// returns nil when the process is ready, at once if it is. With start lazy it starts it.
// On an error the start has failed, and the slot is out already.
func (s *Supervisor) Ready(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return errNoService
		case s.now.State == status.ProcessReady:
			s.guest = admitted
			return nil
		case s.failing:
			return errors.New(s.now.Failed)
		case s.now.State == status.ProcessStopped && !s.wanted:
			s.wanted = true
			s.update()
		}
		if s.wait(ctx.Done(), math.MaxInt64); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Missed is called when the holder has not reached the process to which it was admitted. It reports
// whether that process still runs.
func (s *Supervisor) Missed() (runs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if runs = s.guest >= admitted; runs {
		s.guest = absent
	}
	return runs
}

// Reached is called at the first sign that the holder has reached the process to which it was
// in. The end of the process may be known before: then it was no failure, and the next process is
// started at once.
func (s *Supervisor) Reached() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.guest {
	case admitted:
		s.guest = arrived
	case doubted:
		s.guest, s.failures, s.now.Failed = absent, failures{}, ""
		s.update()
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
	reached = reached && s.guest >= admitted
	s.met = s.met || reached
	s.guest = absent
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
		s.update()
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
		s.row = 0
		s.require(status.RestartConfig)
	case s.now.State != status.ProcessReady && old.Start == StartLazy && spec.Start != StartLazy:
		s.wanted = true
	}
	s.update()
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
	if s.now.State == status.ProcessStarting || s.now.State == status.ProcessReady {
		s.row = 0
		s.require(status.RestartConfig)
	}
	return s.gone
}

// ID returns which slot the process stands behind.
func (s *Supervisor) ID() ID {
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
	s.closed = true
	s.update()
}

// Snapshot returns the state of the process.
func (s *Supervisor) Snapshot() status.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now
	now.Restarts = maps.Clone(now.Restarts)
	return now
}

// Call everything below with the mutex held.

func (s *Supervisor) set(state string) {
	if state != s.now.State {
		s.now.State, s.now.Since = state, time.Now()
	}
	s.update()
}

// update must follow each change of the state. It takes the slot out or lets it in, and wakes all
// that wait for a change.
func (s *Supervisor) update() {
	idle := s.now.State == status.ProcessStopped && !s.wanted
	serving := s.now.State == status.ProcessReady && s.now.Due == ""
	if !s.closed && (idle || serving) {
		s.slot.In()
	} else {
		s.slot.Out()
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Supervisor) require(reason string) {
	s.wanted = s.wanted || s.now.State == status.ProcessBackingOff
	s.now.Due = cmp.Or(s.now.Due, reason)
	s.update()
}
