package tcplock

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// A pool is what stands behind a lock slot by slot: with "workers" each slot has an
// address of its own, with "service" a process of its own, or both. A slot whose worker
// cannot be had is out of service: the line waits for the others, in order.

// pooled reports whether the lock knows what stands behind its slots.
func (s *Settings) pooled() bool { return len(s.Workers) > 0 || s.Service != nil }

// addresses are those of the workers, one for each slot: empty ones if only processes
// stand behind the slots.
func (s *Settings) addresses() []string {
	if len(s.Workers) == 0 {
		return make([]string, max(1, s.Slots))
	}
	addresses, _ := s.expand() // check has seen the error
	return addresses
}

func (s *Settings) slots() int { return len(s.addresses()) }

// resolve returns the workers with what their placeholders stand for now.
func (s *Settings) resolve() (workers []string, err error) {
	for _, found := range s.Workers {
		worker, err := caddy.NewReplacer().ReplaceOrErr(found, true, true)
		if err != nil {
			return nil, fmt.Errorf("workers: found %q: %w", found, err)
		}
		workers = append(workers, worker)
	}
	return workers, nil
}

// expand returns the workers' addresses with port ranges written out.
func (s *Settings) expand() (addresses []string, err error) {
	workers, err := s.resolve()
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for i, found := range s.Workers {
		a, err := caddy.ParseNetworkAddress(workers[i])
		if err != nil || a.PortRangeSize() > maxSlots {
			return nil, fmt.Errorf("workers: found %q, expected host:port, host:port-port or unix//path", found)
		}
		for _, one := range a.Expand() {
			address := one.JoinHostPort(0)
			if one.IsUnixNetwork() {
				address = "unix/" + address
			}
			if _, _, err := dialAddress(address); err != nil || one.Network != "tcp" && one.Network != "unix" {
				return nil, fmt.Errorf("workers: found %q, expected host:port, host:port-port or unix//path", found)
			}
			if seen[address] {
				return nil, fmt.Errorf("workers: found %s a second time, expected each once: it would get two connections", address)
			}
			seen[address] = true
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

// clientOf is who a connection comes from, for the bounds of each client: an IPv4 address,
// or the /64 of an IPv6 one, which is what one customer has. Other clients, such as those
// of a unix socket, have no bounds.
func clientOf(addr net.Addr) clientKey {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return 0
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is4() {
		b := ip.As4()
		return clientKey(1<<32 | uint64(binary.BigEndian.Uint32(b[:]))) // no IPv6 network begins like this
	}
	b := ip.As16()
	return clientKey(max(1, binary.BigEndian.Uint64(b[:8]))) // ::1 is one as well
}

// worker is what stands behind one slot. It stays the slot's as long as the lock lives or
// until the slot is vacant and needed for another one.
type worker struct {
	lock    *lock
	slot    int
	address string // empty: the slot has a process, and the handlers know its address
	named   bool   // in the config in force; l.mu guards it

	mu      sync.Mutex
	process *processSlot // nil: it is somebody else's to run
	why     outOfService
	failed  int // times in a row that it could not be reached
	retry   *time.Timer

	hastened atomic.Bool // hasten's goroutine runs
}

// outOfService are the reasons why a slot is not granted. It is while there is none.
type outOfService uint8

const (
	outRemoved outOfService = 1 << iota // the config names it no longer
	outDown                             // it could not be reached
	outProcess                          // its process is not ready
)

// A worker that could not be reached is left out for so long, twice as long each time.
const (
	minLeftOut = 500 * time.Millisecond
	maxLeftOut = 30 * time.Second
)

// takeOut takes the slot out of service and reports whether it is vacant.
func (w *worker) takeOut(why outOfService) (vacant bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why |= why
	return w.lock.queue.Out(w.slot)
}

// putIn ends one reason to be out of service.
func (w *worker) putIn(why outOfService) {
	w.mu.Lock()
	woken := w.end(why)
	w.mu.Unlock()
	wake(woken)
}

// end is putIn with the mutex held; the place it returns is to be woken.
func (w *worker) end(why outOfService) *place {
	if w.why &^= why; w.why != 0 {
		return nil
	}
	return w.lock.queue.In(w.slot, time.Now())
}

// reach makes sure that there is somebody at the worker's address: its process is ready,
// and if check is more than 0, it accepts a connection in that time. If it returns an
// error the slot is out of service.
func (w *worker) reach(ctx context.Context, check time.Duration) error {
	if p := w.running(); p != nil {
		if err := p.ready(ctx); err != nil {
			return err
		}
	}
	if check == 0 || w.address == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, check)
	defer cancel()
	network, host, err := dialAddress(w.address)
	if err == nil {
		err = probe(ctx, network, host, 0) // a client waits: connecting has to be enough
	}
	if err != nil {
		w.down(err)
	}
	return err
}

// down leaves the worker out for a while, after a connection has not reached it. If its
// process has ended meanwhile there is no need: the slot is out until another is ready.
func (w *worker) down(err error) {
	if p := w.running(); p != nil && !p.missed() {
		return
	}
	w.mu.Lock()
	leftOut := min(minLeftOut<<min(w.failed, 16), maxLeftOut)
	first := w.failed == 0
	w.failed++
	if w.why&outRemoved == 0 { // the slot may be another worker's by now
		w.lock.queue.Out(w.slot)
	}
	w.why |= outDown
	if w.retry != nil {
		w.retry.Stop()
	}
	w.retry = time.AfterFunc(leftOut, func() { w.putIn(outDown) })
	w.mu.Unlock()
	w.lock.record.workerFailures.WithLabelValues(strconv.Itoa(w.slot)).Inc()
	if first {
		w.lock.happened(Event{Event: eventWorkerDown, Slot: w.slot, Worker: w.address, Error: err.Error()})
	}
	w.lock.logger().Warn("worker cannot be reached, left out",
		zap.String("lock", w.lock.name()),
		zap.Int("slot", w.slot),
		zap.String("worker", w.address),
		zap.Duration("for", leftOut),
		zap.Error(err))
}

// gotThrough notes that a connection has reached the worker, as is known for sure when its
// handlers have ended: something before the proxy may have talked with the client.
func (w *worker) gotThrough() {
	w.mu.Lock()
	up := w.failed > 0
	w.failed = 0
	w.mu.Unlock()
	if up {
		w.lock.happened(Event{Event: eventWorkerUp, Slot: w.slot, Worker: w.address})
	}
}

// restored ends the time for which the worker is left out, if it is.
func (w *worker) restored() {
	w.mu.Lock()
	up := w.failed > 0
	w.failed = 0
	if w.retry != nil {
		w.retry.Stop()
	}
	woken := w.end(outDown)
	w.mu.Unlock()
	if up {
		w.lock.happened(Event{Event: eventWorkerUp, Slot: w.slot, Worker: w.address})
	}
	wake(woken)
}

// pool returns what stands behind the slots, from slot 1 on; nil for a slot of which the
// lock does not know. Workers that are removed are there until their holder has gone.
func (l *lock) pool() []*worker {
	if workers := l.workers.Load(); workers != nil {
		return *workers
	}
	return nil
}

// worker returns what stands behind a slot, nil if nothing does that the lock knows of.
func (l *lock) worker(slot int) *worker {
	if !l.inForce.Load().settings.pooled() {
		return nil
	}
	return at(l.pool(), slot-1)
}

// setSlots puts the number of slots, or the workers, in force. l.mu is held.
//
// A worker that stays keeps its slot, its process and its back-off. A new one takes a
// slot that no other worker has; if somebody holds it, who came when slots had no worker,
// it waits for that one's end. One that is removed leaves its slot out of service, and goes
// when its holder has gone: then it is as if it had never been there.
func (l *lock) setSlots(s *Settings, b bounds) {
	slots := max(l.slots, b.limit) // so many there are, or were
	l.slots = b.limit
	if l.workers.Load() == nil && !s.pooled() {
		wakeAll(l.queue.Set(b, time.Now()))
		return
	}
	var addresses []string
	if s.pooled() {
		addresses = s.addresses()
	}
	old := l.pool()
	workers := l.assign(addresses, old)
	if s.pooled() {
		b.limit = len(workers)
	}
	for slot := range max(slots, len(workers), len(old)) {
		// Nobody is granted a slot as long as it is open what stands behind it.
		if w := at(workers, slot); w == nil || w != at(old, slot) {
			l.queue.Out(slot + 1)
		}
	}
	for slot, w := range old {
		if w != nil && w != at(workers, slot) {
			w.remove()
		}
	}
	l.workers.Store(&workers)
	wakeAll(l.queue.Set(b, time.Now()))
	for _, w := range workers {
		switch {
		case w == nil:
		case w.named:
			w.supervise(s.Service)
			w.putIn(outRemoved)
		default:
			w.remove()
		}
	}
	for slot := range b.limit {
		l.open(slot + 1)
	}
}

// drop forgets a worker that has been removed, when nobody holds its slot. l.mu is held.
func (l *lock) drop(w *worker) {
	workers := slices.Clone(l.pool())
	if at(workers, w.slot-1) == w && w.takeOut(outRemoved) {
		workers[w.slot-1] = nil
		l.workers.Store(&workers)
		l.open(w.slot)
	}
}

// open puts a slot into service if it has no worker and needs none, when the last process
// that was there has ended. l.mu is held.
func (l *lock) open(slot int) {
	if l.inForce.Load().settings.pooled() || at(l.pool(), slot-1) != nil {
		return
	}
	if !slices.ContainsFunc(l.processes, func(p *processSlot) bool { return p.worker.slot == slot }) {
		wake(l.queue.In(slot, time.Now()))
	}
}

// hasSlot reports whether there is a slot of that number, in service or not. After reloads
// of workers there may be gaps.
func (l *lock) hasSlot(slot int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inForce.Load().settings.pooled() {
		w := at(l.pool(), slot-1)
		return w != nil && w.named
	}
	return 1 <= slot && slot <= l.slots
}

// assign gives each address a worker, and each worker a slot.
func (l *lock) assign(addresses []string, old []*worker) (workers []*worker) {
	known := make(map[string][]*worker) // more than one if only processes stand behind the slots
	for _, w := range old {
		if w != nil {
			w.named = false
			known[w.address] = append(known[w.address], w)
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
		workers[i] = &worker{lock: l, slot: i + 1, address: address, named: true, why: outRemoved}
	}
	return workers
}

func at(workers []*worker, i int) *worker {
	if i < len(workers) {
		return workers[i]
	}
	return nil
}
