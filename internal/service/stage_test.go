package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// stage is where the scripts of supervisor_test.go play. It has a slot, processes that are only a few
// variables, and a trace of all that happens to both. Each line of the trace starts with the seconds
// since the script began. Time is fake.
type stage struct {
	*Supervisor
	t     *testing.T
	began time.Time

	mu    sync.Mutex
	trace []string
	held  bool         // the slot has a holder
	at    *fakeProcess // the one that the holder has been let to
	isOut bool
	ends  bool // the script is over, the process may end whoever holds the slot
	all   []*fakeProcess

	// How the next process behaves.
	startErr   error
	readyAfter time.Duration
	readyErr   error
	diesAfter  time.Duration // after it is ready; 0: never
	ignores    string        // "term", or "kill" for both
}

// perform runs a script, stops the supervisor, and wants the trace up to then: one line for
// each instant at which something happened.
func perform(t *testing.T, spec *Service, script func(*stage), want ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		s := &stage{t: t, began: time.Now(), readyAfter: time.Second}
		s.Supervisor = Supervise(s.launch, spec, ID{"soffice", 1, ""}, s, zap.NewNop, s.happened)
		s.Run()
		synctest.Wait()
		script(s)
		synctest.Wait()
		got := strings.Join(s.trace, "\n")
		s.let(func() { s.ends = true })
		s.stop()
		if n := s.alive(); n > 0 || !s.taken() {
			t.Errorf("after stop: found %d processes and slot out %v, expected 0 and true", n, s.taken())
		}
		if want := strings.Join(want, "\n"); got != want {
			t.Errorf("found\n%s\nexpected\n%s", got, want)
		}
	})
}

// stop ends the supervisor and its process, and waits for both.
func (s *Supervisor) stop() {
	s.Halt()
	<-s.done
}

// add is called with the mutex held.
func (s *stage) add(format string, args ...any) {
	now := time.Since(s.began).String() + ": "
	what := fmt.Sprintf(format, args...)
	if n := len(s.trace); n > 0 && strings.HasPrefix(s.trace[n-1], now) {
		s.trace[n-1] += ", " + what
	} else {
		s.trace = append(s.trace, now+what)
	}
}

func (s *stage) Out() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isOut {
		s.isOut = true
		s.add("out")
	}
	return !s.held
}

func (s *stage) In() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOut {
		s.isOut = false
		s.add("in")
	}
}

func (s *stage) Fresh() {}
func (s *stage) Gone()  {}

func (s *stage) happened(e status.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add("%s", strings.TrimSpace(e.Event+" "+e.Reason))
}

// grant gives the slot to a client, as the queue would.
func (s *stage) grant() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOut || s.held {
		return false
	}
	s.held = true
	return true
}

// come is a client that gets the slot and waits for the process.
func (s *stage) come() {
	s.t.Helper()
	if !s.grant() {
		s.t.Fatalf("at %s: slot not granted", time.Since(s.began))
	}
	if err := s.reach(); err != nil {
		s.t.Fatalf("at %s: not ready: %v", time.Since(s.began), err)
	}
}

// reach is what a client with the slot does.
func (s *stage) reach() error {
	if err := s.Ready(s.t.Context()); err != nil {
		return err
	}
	p := s.last()
	s.let(func() { s.at = p })
	return nil
}

// leave is its end.
func (s *stage) leave() {
	s.Ended(true, true)
	s.release()
}

func (s *stage) release() {
	s.vacate()
	synctest.Wait()
}

func (s *stage) vacate() {
	s.let(func() { s.held, s.at = false, nil })
	s.Vacated()
}

func (s *stage) taken() (out bool) {
	s.let(func() { out = s.isOut })
	return out
}

// finish makes the newest process end with status 0.
func (s *stage) finish() {
	p := s.last()
	s.let(func() { p.clean = true })
	p.exit()
	synctest.Wait()
}

// weighs says how much memory the process has.
func (s *stage) weighs(n uint64) {
	p := s.last()
	s.let(func() { p.resident = n })
}

// serve is a client that stays for d.
func (s *stage) serve(d time.Duration) {
	s.t.Helper()
	s.come()
	time.Sleep(d)
	s.leave()
}

func (s *stage) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *stage) alive() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		if !p.isOver() {
			n++
		}
	}
	return n
}

// last is the process that was started last, nil if none was.
func (s *stage) last() *fakeProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return nil
	}
	return s.all[len(s.all)-1]
}

// let changes how things behave.
func (s *stage) let(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// launch is the starter. Two processes at once would fight for one address.
func (s *stage) launch(spec *Service, _ ID, _ func() *zap.Logger) (Process, error) {
	if n := s.alive(); n > 0 {
		s.t.Errorf("at %s: started beside %d others", time.Since(s.began), n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.startErr != nil {
		s.add("no start")
		return nil, s.startErr
	}
	p := &fakeProcess{stage: s, name: spec.Command, number: len(s.all) + 1, over: make(chan struct{}),
		readyAfter: s.readyAfter, readyErr: s.readyErr, ignores: s.ignores}
	s.all = append(s.all, p)
	s.add("start %s%d", p.name, p.number)
	return p, nil
}

type fakeProcess struct {
	*stage
	name       string
	number     int
	over       chan struct{}
	readyAfter time.Duration
	readyErr   error
	ignores    string
	resident   uint64
	clean      bool // it ends with status 0
}

func (p *fakeProcess) PID() int                { return 100 + p.number }
func (p *fakeProcess) Exited() <-chan struct{} { return p.over }
func (p *fakeProcess) Release()                {}

func (p *fakeProcess) Cause() error {
	p.stage.mu.Lock()
	defer p.stage.mu.Unlock()
	if p.clean {
		return nil
	}
	return errors.New("exit status 9")
}

func (p *fakeProcess) Memory() (uint64, error) {
	p.stage.mu.Lock()
	defer p.stage.mu.Unlock()
	return p.resident, nil
}

func (p *fakeProcess) Ready(ctx context.Context) error {
	timer := time.NewTimer(p.readyAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.over:
		return errors.New("it has ended before it was ready: " + ending(p))
	}
	p.stage.mu.Lock()
	defer p.stage.mu.Unlock()
	if p.diesAfter > 0 {
		time.AfterFunc(p.diesAfter, p.exit)
	}
	return p.readyErr
}

func (p *fakeProcess) isOver() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

func (p *fakeProcess) exit() {
	p.stage.mu.Lock()
	defer p.stage.mu.Unlock()
	if !p.isOver() {
		p.add("exit %d", p.number)
		close(p.over)
	}
}

// Terminate makes the process end after a second. The process must not have a client.
func (p *fakeProcess) Terminate() {
	p.stage.mu.Lock()
	defer p.stage.mu.Unlock()
	if p.isOver() {
		return
	}
	if p.at == p && !p.ends {
		p.t.Errorf("at %s: process %d ended under a client", time.Since(p.began), p.number)
	}
	p.add("term %d", p.number)
	if p.ignores == "" {
		time.AfterFunc(time.Second, p.exit)
	}
}

func (p *fakeProcess) Kill() {
	p.stage.mu.Lock()
	p.add("kill %d", p.number)
	dies := p.ignores != "kill"
	p.stage.mu.Unlock()
	if dies {
		p.exit()
	}
}
