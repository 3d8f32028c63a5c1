package pool

import (
	"maps"
	"slices"
	"sync"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// A worker whose process the lock runs: what its supervisor learns from the slot's holders and
// from the settings, and how the supervisor takes the slot out of service.
//
// A process that no current config wants is retired: it ends as soon as its slot has no holder.
// The slot is out of service until then. The next process in the same slot or at the same address
// waits for that end.

// Ended is called when the slot's holder is done, before the slot is given back.
func (w *Worker) Ended(reached, counts bool) {
	if p := w.Running(); p != nil {
		p.Ended(reached, counts)
	}
}

// Reached is called at the first sign that the slot's holder has reached the service.
func (w *Worker) Reached() {
	if p := w.Running(); p != nil {
		p.Reached()
	}
}

// Restart has the process restarted, if the lock runs it, before the slot's next holder.
func (w *Worker) Restart(reason string) {
	if p := w.Running(); p != nil {
		p.Restart(reason)
	}
}

// RestartDue reports whether the process is to be restarted when the slot is vacant.
func (w *Worker) RestartDue() bool {
	p := w.Running()
	return p != nil && p.Snapshot().Due != ""
}

// Vacated is called after the slot was released. The pool's mutex decides which comes first: the
// end of the last holder, or a config that wants the worker or its process again.
func (w *Worker) Vacated() {
	w.mu.Lock()
	concerned := w.process != nil || w.why&outRemoved != 0
	w.mu.Unlock()
	if !concerned {
		return
	}
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	switch p := w.Running(); {
	case p == nil:
	case p.retired:
		w.retire(p)
	default:
		p.Vacated()
	}
	if !w.named {
		w.pool.drop(w)
	}
}

// Running returns the worker's process, or nil if the lock runs none.
func (w *Worker) Running() *processSlot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.process
}

// Call everything below with the pool's mutex held, except Halt, Stop and what the supervisor
// calls.

// remove takes the worker out until a config names it again.
func (w *Worker) remove() {
	w.takeOut(outRemoved)
	if p := w.Running(); p != nil {
		w.retire(p)
	}
}

// supervise makes the worker's process follow the settings; nil means no process.
func (w *Worker) supervise(s *service.Service) {
	switch p := w.Running(); {
	case p == nil && s != nil:
		w.launch(s)
	case p == nil:
		if w.pool.occupied(w.Address) {
			w.takeOut(outProcess) // until it has ended
		}
	case s == nil:
		w.retire(p)
	default:
		w.mu.Lock()
		p.retired = false
		w.mu.Unlock()
		p.Replace(s)
		p.takeName(w.pool.Lock.Name())
	}
}

func (w *Worker) launch(s *service.Service) {
	w.takeOut(outRemoved) // until set has done with it, also if nothing is started yet
	p := &processSlot{worker: w, name: w.pool.Lock.Name(), claims: make(map[service.ID]<-chan struct{})}
	exits.Lock()
	p.Supervisor = service.Supervise(s, service.ID{Lock: p.name, Slot: w.Slot, Worker: w.Address}, p, w.pool.Lock.Logger, w.pool.Lock.PublishProcess, p.before()...)
	p.note(p.name, p.Done())
	exits.Unlock()
	w.pool.Processes = append(w.pool.Processes, p)
	w.mu.Lock()
	w.process = p
	w.mu.Unlock()
}

// takeName gives the process the lock's new name. It keeps the places of the old name as long as
// the process that was started under that name runs.
func (p *processSlot) takeName(name string) {
	if name == p.name {
		return
	}
	exits.Lock()
	defer exits.Unlock()
	old := p.name
	p.name = name
	p.note(old, p.Rename(name, p.before()...))
	p.note(name, p.Done())
}

// retire ends p. If the slot has a holder, Vacated does so later.
func (w *Worker) retire(p *processSlot) {
	w.mu.Lock()
	p.retired = true
	w.why |= outProcess
	if p.over = w.pool.Lock.Out(w.Slot); p.over {
		w.process = nil
	}
	w.mu.Unlock()
	if p.over {
		p.Halt()
	}
}

// processSlot is a worker's process, and takes its slot out of service. Change retired and over
// only with the mutexes of both the pool and the worker held.
type processSlot struct {
	*service.Supervisor
	worker  *Worker
	name    string                         // of the lock, as the supervisor knows it; the pool's mutex guards it
	claims  map[service.ID]<-chan struct{} // its places in exits, whose mutex guards it
	retired bool                           // no config in force wants it
	over    bool                           // it is retired and its slot was vacant: it has no say in the slot any more
}

// Out, In, Fresh and Gone implement service.Slot.

func (p *processSlot) Out() (vacant bool) {
	p.worker.mu.Lock()
	defer p.worker.mu.Unlock()
	if p.over {
		return true
	}
	p.worker.why |= outProcess
	return p.worker.pool.Lock.Out(p.worker.Slot)
}

func (p *processSlot) In() {
	p.worker.mu.Lock()
	defer p.worker.mu.Unlock()
	if !p.retired {
		p.worker.end(outProcess)
	}
}

func (p *processSlot) Fresh() { p.worker.Restored() }

// Gone lets the next process start, or puts slots that waited for this end back into service.
func (p *processSlot) Gone() {
	exits.Lock()
	for place, end := range p.claims {
		if exits.last[place] == end {
			delete(exits.last, place)
		}
	}
	exits.Unlock()
	pool := p.worker.pool
	pool.mu.Lock()
	defer pool.mu.Unlock()
	pool.Processes = slices.DeleteFunc(pool.Processes, func(other *processSlot) bool { return other == p })
	for _, w := range pool.List() {
		if w != nil && w.Running() == nil && !pool.occupied(w.Address) {
			w.putIn(outProcess)
		}
	}
	pool.open(p.worker.Slot)
}

// occupied reports whether one of the pool's processes is still at an address.
func (p *Pool) occupied(address string) bool {
	return slices.ContainsFunc(p.Processes, func(p *processSlot) bool { return p.worker.Address == address })
}

// places returns what only one process can have at a time: a slot, which may be in the name of its
// directory, and an address.
func (p *processSlot) places(name string) []service.ID {
	places := []service.ID{{Lock: name, Slot: p.worker.Slot}}
	if p.worker.Address != "" {
		places = append(places, service.ID{Lock: name, Worker: p.worker.Address})
	}
	return places
}

// before returns the exits for which p must wait: of the processes at its places. Hold the mutex
// of exits, here and in note.
func (p *processSlot) before() (all []<-chan struct{}) {
	for _, place := range p.places(p.name) {
		if end := exits.last[place]; end != nil {
			all = append(all, end)
		}
	}
	return all
}

// note records when p leaves its places under that name.
func (p *processSlot) note(name string, end <-chan struct{}) {
	for _, place := range p.places(name) {
		exits.last[place], p.claims[place] = end, end
	}
}

// exits has, for each place, the exit of the process that came there last. All earlier ones have
// exited by then, because each waits for its predecessor. An earlier one may belong to another
// lock: one that a reload has removed, and whose name came back while its processes were ending.
var exits = struct {
	sync.Mutex
	last map[service.ID]<-chan struct{}
}{last: make(map[service.ID]<-chan struct{})}

// Exiting returns the places whose process has not exited, also those of locks that are no more.
func Exiting() []service.ID {
	exits.Lock()
	defer exits.Unlock()
	return slices.Collect(maps.Keys(exits.last))
}

// AwaitExits waits until the processes of all locks have exited. All must have been told to end.
func AwaitExits() {
	exits.Lock()
	last := slices.Collect(maps.Values(exits.last))
	exits.Unlock()
	for _, end := range last {
		<-end
	}
}

// Halt tells all processes to end, and returns them.
func (p *Pool) Halt() []*processSlot {
	p.mu.Lock()
	processes := slices.Clone(p.Processes)
	p.mu.Unlock()
	for _, one := range processes {
		one.Halt()
	}
	return processes
}

// Stop ends all processes, and returns when they have ended.
func (p *Pool) Stop() {
	for _, one := range p.Halt() {
		<-one.Done()
	}
}
