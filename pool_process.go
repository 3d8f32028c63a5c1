package tcplock

// A worker whose process is the lock's to run: what the slot's holders and the settings
// tell its supervisor, and how that takes the slot out of service.

// ended is called when the slot's holder is done, before the slot is given back.
func (w *worker) ended() {
	if p := w.running(); p != nil {
		p.ended()
	}
}

// restart has the process restarted, if the lock runs it, before the slot's next holder.
func (w *worker) restart(reason string) {
	if p := w.running(); p != nil {
		p.restart(reason)
	}
}

// vacated is called when the slot has been given back.
func (w *worker) vacated() {
	w.mu.Lock()
	p, removed := w.process, w.why&outRemoved != 0
	w.mu.Unlock()
	switch {
	case p == nil:
	case removed:
		w.leave(p)
	default:
		p.vacated()
	}
}

// remove takes the worker out for good, or until a config names it again.
func (w *worker) remove() {
	if p := w.running(); w.takeOut(outRemoved) && p != nil {
		w.leave(p)
	}
}

// running returns the process behind the worker, nil if that is not the lock's to run.
func (w *worker) running() *processSlot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.process
}

// supervise makes the process behind the worker what the settings say.
func (w *worker) supervise(s *Service) {
	p := w.running()
	switch {
	case p == nil && s != nil:
		w.takeOut(outProcess)
		p = &processSlot{worker: w}
		p.supervisor = newSupervisor(s, processID{w.lock.name, w.slot, w.address}, p, w.lock.logger, w.lock.noteProcess)
		w.mu.Lock()
		w.process = p
		w.mu.Unlock()
	case p != nil && s == nil:
		w.leave(p)
		w.putIn(outProcess)
	case p != nil:
		p.replace(s)
	}
}

// leave ends p, which is the worker's process no longer.
func (w *worker) leave(p *processSlot) {
	w.mu.Lock()
	if w.process == p {
		w.process = nil
	}
	p.over = true
	w.mu.Unlock()
	w.lock.stopping.Go(p.stop)
}

// processSlot is a worker's process and how it takes its slot out of service.
type processSlot struct {
	*supervisor
	worker *worker
	over   bool // another one may do that now; worker.mu guards it
}

func (p *processSlot) out() (vacant bool) {
	p.worker.mu.Lock()
	defer p.worker.mu.Unlock()
	if p.over {
		return true
	}
	p.worker.why |= outProcess
	return p.worker.lock.queue.Out(p.worker.slot)
}

func (p *processSlot) in() {
	var woken *place
	p.worker.mu.Lock()
	if !p.over {
		woken = p.worker.end(outProcess)
	}
	p.worker.mu.Unlock()
	wake(woken)
}

// stopProcesses ends all of them, and returns when they have ended.
func (l *lock) stopProcesses() {
	for _, w := range l.pool() {
		if w == nil {
			continue
		}
		if p := w.running(); p != nil {
			l.stopping.Go(p.stop)
		}
	}
	l.stopping.Wait()
}
