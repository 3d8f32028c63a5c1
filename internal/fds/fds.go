// Package fds limits the connections of all locks to the file descriptors of the process.
package fds

import "sync/atomic"

// Process is the budget of this process. Once the descriptors of a process have run out, caddy-l4
// never accepts again. So the budget must refuse connections before that, even where a line has no
// limit of its own.
var Process Budget

func init() { Process.SetLimit(descriptorLimit()) }

// Budget counts the descriptors that the locks have open, and those that their connections may
// still need. A connection needs one descriptor for its client, and one more for the service once
// it has a slot. Processes and commands are never refused a descriptor: they leave fewer for
// connections, and so do pipes, see Spare.
type Budget struct {
	limit       atomic.Int64 // descriptors that the process may open
	connections atomic.Int64 // each once, however many locks it is in
	services    atomic.Int64 // sockets to services, open or reserved, see Sockets
	others      atomic.Int64 // of processes, commands and pipes
	spare       atomic.Int64 // the part of others that is for what connections can do without, see Spare

	Refusals Seats // connections at refuse handlers
	Drains   Seats // refused connections whose clients still send
}

// mostConnections is the limit where there are more descriptors than this: each connection also
// needs memory, 2 to 8 KiB.
const mostConnections = 250_000

// How many descriptors Caddy needs for each process or command.
const (
	PerProcess = 3 // its output, the line to the guard of its group, and one to wait for its end
	PerWait    = 1 // to wait for the end of a command
	PerOutput  = 1 // the output of a command, which may stay open after its end
)

// SetLimit sets how many descriptors the process may open, and returns how many it might before.
func (d *Budget) SetLimit(processLimit int64) (before int64) {
	n := reserve(processLimit)
	d.Refusals.bound(n/4, n/16, refusalPatience)
	d.Drains.bound(n/8, n/16, 0)
	return d.limit.Swap(processLimit)
}

// reserve is how many of the descriptors are not for connections in a line or at a service.
//
// An eighth of them, but at least 64, is left to everything else: listeners, logs, the admin API,
// connections that caddy-l4 has just accepted, files that are open for a moment. A small Caddy
// needs 64. Two thirds of this reserve are for refused connections, since refusals come when the
// rest is used up. A refuse handler may need a second descriptor for each connection, and may keep
// it for a while after the client was cut.
func reserve(processLimit int64) int64 { return max(64, processLimit/8) }

// Enter counts one more connection. It returns false, and counts nothing, if there is no room.
func (d *Budget) Enter() bool {
	n, limit := d.connections.Add(1), d.limit.Load()
	if n > mostConnections || n+min(n, d.services.Load())+d.others.Load() > limit-reserve(limit) {
		d.connections.Add(-1)
		return false
	}
	return true
}

// Leave undoes one Enter that returned true.
func (d *Budget) Leave() { d.connections.Add(-1) }

// Use is what a budget counts.
type Use struct {
	Connections, ServiceSockets int64
	Others                      int64 // descriptors of processes, commands and pipes
	Refused, Draining           int64 // connections with a seat
}

// InUse returns all that is counted.
func (d *Budget) InUse() Use {
	return Use{d.connections.Load(), d.services.Load(), d.others.Load(), d.Refusals.inUse(), d.Drains.inUse()}
}

// Take counts n descriptors of a process or a command. release must be called once.
func (d *Budget) Take(n int64) (release func()) {
	d.others.Add(n)
	return func() { d.others.Add(-n) }
}

// Spare counts n descriptors of something that connections can do without. Such things have
// an eighth of all descriptors. If that is used up, it counts nothing and returns false. release must be called once.
func (d *Budget) Spare(n int64) (release func(), ok bool) {
	if d.spare.Add(n) > d.limit.Load()/8 {
		d.spare.Add(-n)
		return nil, false
	}
	take := d.Take(n)
	return func() { d.spare.Add(-n); take() }, true
}

// Sockets counts the sockets from one lock to its service, in the budget of the process. The count
// is the number of slots, or the number of open sockets if that is higher: it is after slots were
// lowered, and while there are connections that lost their slot and are still at the service. The
// upper half of the number has the slots and the lower half the open sockets, so that one atomic
// change covers both. The zero value has no slots.
type Sockets struct{ both atomic.Uint64 }

// SetSlots sets the number of slots, for each of which the budget reserves a socket. Only one
// goroutine at a time may call it.
func (s *Sockets) SetSlots(n int) { s.add(uint64(n)<<32 - s.both.Load()>>32<<32) }

// Open counts one more open socket.
func (s *Sockets) Open() { s.add(1) }

// Close counts one open socket less.
func (s *Sockets) Close() { s.add(^uint64(0)) }

func (s *Sockets) add(n uint64) {
	after := s.both.Add(n)
	if more := most(after) - most(after-n); more != 0 {
		Process.services.Add(more)
	}
}

// most is how many sockets are open or reserved.
func most(both uint64) int64 { return int64(max(both>>32, both&(1<<32-1))) }
