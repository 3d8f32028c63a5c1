package tcplock

import "sync/atomic"

// budget keeps the connections in all locks of the process within its file descriptors.
// When those run out caddy-l4 stops accepting for good, so a line that has no limit of
// its own must end before that.
var budget = newDescriptors(descriptorLimit())

// descriptors counts what the locks have open, and what they may still open for the
// connections that they have let in. A connection has one descriptor for its client, and
// one more for the service when it gets a slot. Processes and commands are never refused
// a descriptor: they lower the number of connections that may come in.
type descriptors struct {
	limit       int64
	connections atomic.Int64 // each once, however many locks it is in
	services    atomic.Int64 // sockets to services that there are or may be, see sockets
	others      atomic.Int64 // of processes and commands

	refusals seats // connections at refuse handlers
	drains   seats // refused connections whose clients still send
}

// mostConnections bounds the line where descriptors do not: they would still need
// memory, about 6 KiB each.
const mostConnections = 100_000

// What Caddy keeps open for each of these, as long as it runs.
const (
	processDescriptors = 3 // its output, the line to the guard of its group, and one to wait for its end
	waitDescriptors    = 1 // to wait for the end of a command
	outputDescriptors  = 1 // the output of a command, which may outlive it
)

// newDescriptors leaves an eighth of the process's descriptors to all else: listeners,
// logs, the admin API, connections that are just being accepted, files that are open for
// a moment; but no less than 64, which is what a small Caddy needs. Two thirds of that are
// for connections that are refused, since that is when the others are used up: a refuse
// handler may need a second descriptor for each connection, and may keep that one for a
// while after its client was cut.
func newDescriptors(processLimit int64) *descriptors {
	reserve := max(64, processLimit/8)
	d := &descriptors{limit: max(0, processLimit-reserve)}
	d.refusals.most, d.refusals.mostCut, d.refusals.patience = reserve/4, reserve/16, refusalPatience
	d.drains.most, d.drains.mostCut = reserve/8, reserve/16
	return d
}

// enter counts one more connection, or returns false if there may not be one.
func (d *descriptors) enter() bool {
	n := d.connections.Add(1)
	if n > mostConnections || n+min(n, d.services.Load())+d.others.Load() > d.limit {
		d.connections.Add(-1)
		return false
	}
	return true
}

func (d *descriptors) leave() { d.connections.Add(-1) }

// take counts descriptors of a process or a command, and returns what gives them back.
func (d *descriptors) take(n int64) (giveBack func()) {
	d.others.Add(n)
	return func() { d.others.Add(-n) }
}

// sockets is one lock's part of services: as many as it has slots, or as many connections
// as are really at its service if those are more. They are more when slots were lowered
// under their holders, and when connections are left over. Slots are the upper half of the
// number, connections the lower one, so that both change together with what follows from
// them, and without a mutex.
type sockets struct{ both atomic.Uint64 }

func (s *sockets) setSlots(n int) {
	for {
		before := s.both.Load()
		if s.change(before, uint64(n)<<32|before&(1<<32-1)) {
			return
		}
	}
}

func (s *sockets) open() {
	for {
		if before := s.both.Load(); s.change(before, before+1) {
			return
		}
	}
}

func (s *sockets) close() {
	for {
		if before := s.both.Load(); s.change(before, before-1) {
			return
		}
	}
}

// change returns false if another change was faster.
func (s *sockets) change(before, after uint64) bool {
	if !s.both.CompareAndSwap(before, after) {
		return false
	}
	if more := most(after) - most(before); more != 0 {
		budget.services.Add(more)
	}
	return true
}

// most is how many sockets there are or may be.
func most(both uint64) int64 { return int64(max(both>>32, both&(1<<32-1))) }

// A connection that goes through several locks has one client and one service: the
// outermost lock that has it counts it.

// countClient counts the connection's client, or returns false if there may not be one more.
func (w *waiter) countClient() bool {
	for outer := w.outer; outer != nil; outer = outer.outer {
		if outer.counted {
			return true
		}
	}
	w.counted = budget.enter()
	return w.counted
}

// countSocket counts the socket to the service that the holder will have.
func (h *holder) countSocket() {
	for outer := h.waiter.outer; outer != nil; outer = outer.outer {
		if o := outer.holder.Load(); o != nil && o.socketCounted {
			return
		}
	}
	h.socketCounted = true
	h.waiter.lock.sockets.open()
}

// uncountSocket ends that, when the handlers to come have returned.
func (h *holder) uncountSocket() {
	if h.socketCounted {
		h.socketCounted = false
		h.waiter.lock.sockets.close()
	}
}
