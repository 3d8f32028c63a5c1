package pool

import (
	"maps"
	"slices"
	"sync"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// Exits has the exits of the processes of all locks: for each place that of the process that came
// there last. A place is what only one process can have at a time: a slot, which may be in the name
// of its directory, and an address. All earlier processes have exited by then, because each waits for
// its predecessor. An earlier one may belong to another lock: one that a reload has removed, and whose
// name came back while its processes were ending. The zero value is ready for use.
type Exits struct {
	mu   sync.Mutex
	last map[service.ID]stay
}

// stay is that of one process at one place.
type stay struct {
	process *service.Supervisor
	end     <-chan struct{}
}

// Places returns the places whose process has not exited, also those of locks that are no more.
func (e *Exits) Places() []service.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.last))
}

// Await waits until all processes have exited. All must have been told to end.
func (e *Exits) Await() {
	e.mu.Lock()
	last := slices.Collect(maps.Values(e.last))
	e.mu.Unlock()
	for _, stay := range last {
		<-stay.end
	}
}

// enter gives a process its places. It returns the exits for which the process must wait.
func (e *Exits) enter(s *service.Supervisor) (before []<-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.note(s.ID(), stay{s, s.Done()})
}

// rename gives a process the lock's new name. The process keeps the places of the old name as long as
// the process that was started under that name runs.
func (e *Exits) rename(s *service.Supervisor, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, id := s.ID(), s.ID()
	if id.Lock = name; id != old {
		before := e.note(id, stay{s, s.Done()})
		e.note(old, stay{s, s.Rename(name, before...)})
	}
}

// note is enter for one name, with the mutex held.
func (e *Exits) note(id service.ID, now stay) (before []<-chan struct{}) {
	if e.last == nil {
		e.last = make(map[service.ID]stay)
	}
	for _, place := range []service.ID{{Lock: id.Lock, Slot: id.Slot}, {Lock: id.Lock, Worker: id.Worker}} {
		if place.Slot == 0 && place.Worker == "" {
			continue
		}
		if last, ok := e.last[place]; ok {
			before = append(before, last.end)
		}
		e.last[place] = now
	}
	return before
}

// leave frees the places of a process that has exited.
func (e *Exits) leave(s *service.Supervisor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.last, func(_ service.ID, stay stay) bool { return stay.process == s })
}
