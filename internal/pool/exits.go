package pool

import (
	"maps"
	"slices"
	"sync"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// Exits knows the exit of the newest process at each slot and at each address, in all locks. A process
// claims both for itself: a slot may be in the name of the process's directory. Older processes have
// exited by the time it starts, because it waits for them. One of them may belong to another lock: a
// reload has removed that lock, and its name came back while its processes were ending. The zero value
// is ready for use.
type Exits struct {
	mu   sync.Mutex
	last map[service.ID]claim // by slot (its lock and number), and by address (its lock and worker)
}

// claim is the claim of one process on a slot or an address.
type claim struct {
	process *service.Supervisor
	end     <-chan struct{} // closed when the process has exited
}

// Claims returns the slots and addresses with a process that has not exited, also those of locks that
// are no more.
func (e *Exits) Claims() []service.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.last))
}

// Await waits until all processes have exited. All must have been told to end.
func (e *Exits) Await() {
	e.mu.Lock()
	last := slices.Collect(maps.Values(e.last))
	e.mu.Unlock()
	for _, claim := range last {
		<-claim.end
	}
}

// enter claims the slot and the address of a process. It returns the exits for which the process must
// wait.
func (e *Exits) enter(s *service.Supervisor) (before []<-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.note(s.ID(), claim{s, s.Done()})
}

// rename gives a process the lock's new name. It keeps its claims under the old name as long as
// the process that was started under that name runs.
func (e *Exits) rename(s *service.Supervisor, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, id := s.ID(), s.ID()
	if id.Lock = name; id != old {
		before := e.note(id, claim{s, s.Done()})
		e.note(old, claim{s, s.Rename(name, before...)})
	}
}

// note is enter for one name, with the mutex held.
func (e *Exits) note(id service.ID, now claim) (before []<-chan struct{}) {
	if e.last == nil {
		e.last = make(map[service.ID]claim)
	}
	for _, at := range []service.ID{{Lock: id.Lock, Slot: id.Slot}, {Lock: id.Lock, Worker: id.Worker}} {
		if at.Slot == 0 && at.Worker == "" {
			continue
		}
		if last, ok := e.last[at]; ok {
			before = append(before, last.end)
		}
		e.last[at] = now
	}
	return before
}

// leave drops the claims of a process that has exited.
func (e *Exits) leave(s *service.Supervisor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.last, func(_ service.ID, c claim) bool { return c.process == s })
}
