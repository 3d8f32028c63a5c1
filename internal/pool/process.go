package pool

import (
	"slices"

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
	w.tell(func(p *processSlot) { p.Ended(reached, counts) })
}

// Reached is called at the first sign that the slot's holder has reached the service.
func (w *Worker) Reached() { w.tell(func(p *processSlot) { p.Reached() }) }

// Restart has the process restarted, if the lock runs it, before the slot's next holder.
func (w *Worker) Restart(reason string) { w.tell(func(p *processSlot) { p.Restart(reason) }) }

func (w *Worker) tell(what func(*processSlot)) {
	if p := w.Running(); p != nil {
		what(p)
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
	concerned := w.process != nil || w.why&outRemoved != 0 && w.Slot != 0
	w.mu.Unlock()
	if !concerned {
		return
	}
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	w.endRetired()
	if p := w.Running(); p != nil {
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
	w.supervise(nil)
}

// supervise makes the worker's process follow the settings; nil means no process.
func (w *Worker) supervise(s *service.Service) {
	switch p := w.Running(); {
	case s == nil && (p != nil || w.pool.occupied(w.Address)):
		w.takeOut(outRetired) // until it has ended
		w.endRetired()
	case s == nil:
	case p == nil:
		w.launch(s)
	default:
		p.Replace(s)
		w.pool.Exits.rename(p.Supervisor, w.pool.Lock.Name())
		w.putIn(outRetired)
	}
}

func (w *Worker) launch(s *service.Service) {
	id := service.ID{Lock: w.pool.Lock.Name(), Slot: w.Slot, Worker: w.Address}
	p := &processSlot{worker: w}
	p.Supervisor = service.Supervise(w.pool.Start, s, id, p, w.pool.Lock.Logger, w.pool.Lock.PublishProcess)
	w.pool.Processes = append(w.pool.Processes, p)
	w.mu.Lock()
	w.why &^= outRetired
	w.process = p
	w.mu.Unlock()
	p.Run(w.pool.Exits.enter(p.Supervisor)...)
}

// endRetired ends a retired process if its slot is vacant, and calls it again otherwise. From then on
// the process has no say in the slot.
func (w *Worker) endRetired() {
	w.mu.Lock()
	p := w.process
	if w.why&outRetired == 0 || p == nil || !w.pool.Lock.Out(w.Slot) {
		w.mu.Unlock()
		return
	}
	w.process = nil
	w.why &^= outProcess
	w.mu.Unlock()
	p.Halt()
}

// processSlot is a process, and takes its worker's slot out of service. It outlives the worker's
// interest in it: once it is no longer the worker's process, it has no say in the slot.
type processSlot struct {
	*service.Supervisor
	worker *Worker
}

// Out, In, Fresh and Gone implement service.Slot.

func (p *processSlot) Out() (vacant bool) {
	w := p.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process != p {
		return true
	}
	w.why |= outProcess
	return w.pool.Lock.Out(w.Slot)
}

func (p *processSlot) In() { p.worker.putIn(outProcess) }

func (p *processSlot) Fresh() { p.worker.Restored() }

// Gone lets the next process start, or puts slots that waited for this end back into service.
func (p *processSlot) Gone() {
	pool := p.worker.pool
	pool.Exits.leave(p.Supervisor)
	pool.mu.Lock()
	defer pool.mu.Unlock()
	pool.Processes = slices.DeleteFunc(pool.Processes, func(other *processSlot) bool { return other == p })
	for _, w := range pool.List() {
		if w != nil && w.Running() == nil && !pool.occupied(w.Address) {
			w.putIn(outRetired)
		}
	}
	pool.open(p.worker.Slot)
}

// occupied reports whether one of the pool's processes is still at an address.
func (p *Pool) occupied(address string) bool {
	return slices.ContainsFunc(p.Processes, func(p *processSlot) bool { return p.worker.Address == address })
}

// Halt tells all processes to end, and returns them.
func (p *Pool) Halt() []*processSlot {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.Processes {
		one.Halt()
	}
	return slices.Clone(p.Processes)
}

// Stop ends all processes, and returns when they have ended.
func (p *Pool) Stop() {
	for _, one := range p.Halt() {
		<-one.Done()
	}
}
