// Package pool knows what stands behind each slot of a lock: a worker, which is an address, a
// process, or both.
package pool

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Pool has a worker for each slot of a lock: with "workers" each slot has its own address, with
// "service" its own process, or both. A slot whose worker cannot be reached is out of service: the
// line waits for the other slots, in order.
//
// Take the pool's mutex after the lock's, and before those of workers and supervisors.
type Pool struct {
	Lock   Lock
	Exits  *Exits          // shared by the pools of all locks
	Start  service.Starter // starts processes; nil: real ones
	pooled atomic.Bool     // the config in force says what stands behind the slots

	mu        sync.Mutex
	limit     int                       // slots of the config in force
	workers   atomic.Pointer[[]*Worker] // from slot 1 on, see list
	shared    atomic.Pointer[Worker]    // behind all slots, which have no workers of their own then; nil: none
	Processes []*processSlot            // that have not ended
}

// Wanted is what a config asks for behind the slots.
type Wanted struct {
	Addresses []string // one for each slot; empty ones if the lock does not know it
	Pooled    bool     // the lock knows what stands behind its slots
	Shared    string   // the address behind all slots; empty: none. Not with Pooled
	Service   *service.Service
}

// Lock is what a pool needs from its lock. No method blocks, and all may be called with the pool's
// mutexes held.
type Lock interface {
	Out(slot int) (vacant bool) // no connection is granted the slot from now on; slot 0: any slot
	In(slot int)                // the slot may be granted again; slot 0: all slots
	Name() string
	Logger() *zap.Logger
	Publish(status.Event)
	CountUnreachable(slot int)
	PublishProcess(status.Event)
}

// Worker is what stands behind one slot. It keeps the slot as long as the lock lives, or until the
// slot is vacant and another worker needs it. If the service has one address, one worker stands behind
// all slots.
type Worker struct {
	pool    *Pool
	Slot    int    // 0: all slots
	Address string // empty: the slot has a process, and the handlers know its address
	named   bool   // in the config in force; the pool's mutex guards it

	mu      sync.Mutex
	process *processSlot // nil: the lock runs none
	why     outOfService
	failed  int       // times in a row that it could not be reached
	since   time.Time // of the first of them
	retry   *time.Timer

	Hastened atomic.Bool // see lock.hasten
}

// outOfService are the reasons why the slot of a worker is not granted. The worker alone takes its
// slot out of the queue's service while there is a reason, and puts it in when there is none.
type outOfService uint8

const (
	outRemoved outOfService = 1 << iota // the config names it no longer
	outDown                             // it could not be reached
	outProcess                          // its process is not ready
	outRetired                          // a process that no config wants has not ended
)

// takeOut takes the slot out of service and reports whether it is vacant.
func (w *Worker) takeOut(why outOfService) (vacant bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why |= why
	return w.pool.Lock.Out(w.Slot)
}

// putIn ends one reason to be out of service.
func (w *Worker) putIn(why outOfService) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why &^= why; w.why == 0 {
		w.pool.Lock.In(w.Slot)
	}
}

// Reach makes sure that a service is at the worker's address: its process is ready, and if check
// is more than 0, the address accepts a connection in that time. If Reach returns an error, the
// slot is out of service.
func (w *Worker) Reach(ctx context.Context, check time.Duration) error {
	if p := w.Running(); p != nil {
		if err := p.Ready(ctx); err != nil {
			return err
		}
	}
	if check == 0 || w.Address == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, check)
	defer cancel()
	network, host, err := dial.Address(w.Address)
	if err == nil {
		err = dial.Probe(ctx, network, host, 0) // a client waits: connecting has to be enough
	}
	if err != nil {
		w.Down(err)
	}
	return err
}

// List returns the workers of the slots, from slot 1 on; nil for a slot without one. A removed
// worker stays in the list until its holder has gone.
func (p *Pool) List() []*Worker {
	if workers := p.workers.Load(); workers != nil {
		return *workers
	}
	return nil
}

// Worker returns the slot's worker, or nil if the config in force names none.
func (p *Pool) Worker(slot int) *Worker {
	if !p.pooled.Load() {
		return p.shared.Load()
	}
	return p.At(slot)
}

// All returns all workers, by slot.
func (p *Pool) All() (all []*Worker) {
	if w := p.shared.Load(); w != nil {
		all = append(all, w)
	}
	for _, w := range p.List() {
		if w != nil {
			all = append(all, w)
		}
	}
	return all
}

// At returns the slot's worker, whatever the current config says: a removed worker stays until its
// slot is vacant.
func (p *Pool) At(slot int) *Worker { return at(p.List(), slot-1) }

// Set activates the number of slots, or the workers. It calls bound with the number of slots that
// there are then; bound sets it in the queue.
//
// A worker that stays keeps its slot, its process and its back-off. A new worker takes a slot that
// no other worker has; a holder from before the reload keeps that slot until it ends. A removed
// worker leaves its slot out of service. When its holder has gone, the worker is forgotten.
func (p *Pool) Set(w Wanted, bound func(slots int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.Shared != "" {
		p.share(w.Shared)
	} else {
		defer p.share("") // not before it is decided what stands behind each slot
	}
	p.pooled.Store(w.Pooled)
	limit := len(w.Addresses)
	slots := max(p.limit, limit) // so many there are, or were
	p.limit = limit
	if p.workers.Load() == nil && !w.Pooled {
		bound(limit)
		return
	}
	var addresses []string
	if w.Pooled {
		addresses = w.Addresses
	}
	old := p.List()
	workers := p.Assign(addresses, old)
	if w.Pooled {
		limit = len(workers)
	}
	for slot := range max(slots, len(workers), len(old)) {
		before, now := at(old, slot), at(workers, slot)
		if before != nil && before != now {
			before.remove()
		}
		if now == nil || before != now {
			p.Lock.Out(slot + 1) // grant no slot while its worker is not decided
		}
	}
	p.workers.Store(&workers)
	bound(limit)
	for _, worker := range workers {
		switch {
		case worker == nil:
		case worker.named:
			worker.supervise(w.Service)
			worker.putIn(outRemoved)
		default:
			worker.remove()
		}
	}
	for slot := range limit {
		p.open(slot + 1)
	}
}

// share puts a worker behind all slots, or none if it has no address. The mutex is held.
func (p *Pool) share(address string) {
	old := p.shared.Load()
	if old != nil && old.Address == address || old == nil && address == "" {
		return
	}
	if old != nil {
		old.takeOut(outRemoved) // from now on it has no say in the slots
	}
	if address == "" {
		p.shared.Store(nil)
		p.Lock.In(0)
		return
	}
	now := &Worker{pool: p, Address: address, named: true, why: outRemoved}
	p.shared.Store(now)
	now.putIn(outRemoved)
}

// drop forgets a worker that has been removed, when its slot is vacant. The mutex is held.
func (p *Pool) drop(w *Worker) {
	workers := slices.Clone(p.List())
	if at(workers, w.Slot-1) == w && w.takeOut(outRemoved) {
		workers[w.Slot-1] = nil
		p.workers.Store(&workers)
		p.open(w.Slot)
	}
}

// open puts a slot into service if it has no worker and needs none, when the last process
// that was there has ended. The mutex is held.
func (p *Pool) open(slot int) {
	if p.pooled.Load() || p.At(slot) != nil {
		return
	}
	if !slices.ContainsFunc(p.Processes, func(p *processSlot) bool { return p.worker.Slot == slot }) {
		p.Lock.In(slot)
	}
}

// Slots returns the number of slots of the current config.
func (p *Pool) Slots() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit
}

// HasSlot reports whether there is a slot of that number, in service or not. After reloads
// of workers there may be gaps.
func (p *Pool) HasSlot(slot int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pooled.Load() {
		w := p.At(slot)
		return w != nil && w.named
	}
	return 1 <= slot && slot <= p.limit
}

// Named returns the workers of the config in force that have a slot of their own.
func (p *Pool) Named() []*Worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.pooled.Load() {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(p.List()), func(w *Worker) bool { return w == nil || !w.named })
}

// Assign gives each address a worker, and each worker a slot.
func (p *Pool) Assign(addresses []string, old []*Worker) (workers []*Worker) {
	known := make(map[string][]*Worker) // more than one if only processes stand behind the slots
	for _, w := range old {
		if w != nil {
			w.named = false
			known[w.Address] = append(known[w.Address], w)
		}
	}
	var missing []string
	for _, address := range addresses {
		if same := known[address]; len(same) > 0 {
			same[0].named, known[address] = true, same[1:]
		} else {
			missing = append(missing, address)
		}
	}
	workers = slices.Clone(old)
	for i, w := range workers {
		if w != nil && !w.named && w.takeOut(outRemoved) {
			workers[i] = nil
		}
	}
	for len(workers) > 0 && workers[len(workers)-1] == nil {
		workers = workers[:len(workers)-1]
	}
	i := 0
	for _, address := range missing {
		for at(workers, i) != nil {
			i++
		}
		if i == len(workers) {
			workers = append(workers, nil)
		}
		workers[i] = &Worker{pool: p, Slot: i + 1, Address: address, named: true, why: outRemoved}
	}
	return workers
}

func at(workers []*Worker, i int) *Worker {
	if i < len(workers) {
		return workers[i]
	}
	return nil
}

// Status returns the state of the worker, and of its process if the lock runs it.
func (w *Worker) Status() status.Worker {
	w.mu.Lock()
	p, why := w.process, w.why
	w.mu.Unlock()
	s, process := status.Worker{Slot: w.Slot, Address: w.Address, State: status.WorkerUp}, status.ProcessReady
	if p != nil {
		now := p.Snapshot()
		s.Process, process = &now, now.State
	}
	switch {
	case why&outRemoved != 0:
		s.State = status.WorkerRemoved
	case why&(outProcess|outRetired) != 0:
		s.State = status.WorkerUnready
	case why != 0:
		s.State = status.WorkerOut
	case process == status.ProcessStopped:
		s.State = status.WorkerStopped
	case process != status.ProcessReady: // it has changed its state meanwhile
		s.State = status.WorkerUnready
	}
	return s
}
