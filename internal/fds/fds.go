// Package fds limits the connections of all locks to the file descriptors of the process.
package fds

import (
	"fmt"
	"sync/atomic"
)

// Process is the budget of this process. Once the descriptors of a process have run out, caddy-l4
// never accepts again. So the budget must refuse connections before that, even where a line has no
// limit of its own.
var Process = New(descriptorLimit())

// Budget counts the descriptors that the locks have open, and those that their connections may
// still need. A connection needs one descriptor for its client, and one more for the service once
// it has a slot. Processes and commands are never refused a descriptor: they leave fewer for
// connections.
type Budget struct {
	limit       int64
	connections atomic.Int64 // each once, however many locks it is in
	services    atomic.Int64 // sockets to services, open or reserved, see Sockets
	others      atomic.Int64 // of processes and commands

	Refusals Seats // connections at refuse handlers
	Drains   Seats // refused connections whose clients still send
}

// mostConnections is the limit where there are more descriptors than this: each connection also
// needs memory, about 6 KiB.
const mostConnections = 100_000

// How many descriptors Caddy needs for each process or command.
const (
	PerProcess = 3 // its output, the line to the guard of its group, and one to wait for its end
	PerWait    = 1 // to wait for the end of a command
	PerOutput  = 1 // the output of a command, which may stay open after its end
)

// New returns the budget of a process that may open so many descriptors.
//
// An eighth of them, but at least 64, is left to everything else: listeners, logs, the admin API,
// connections that caddy-l4 has just accepted, files that are open for a moment. A small Caddy
// needs 64. Two thirds of this reserve are for refused connections, since refusals come when the
// rest is used up. A refuse handler may need a second descriptor for each connection, and may keep
// it for a while after the client was cut.
func New(processLimit int64) *Budget {
	reserve := max(64, processLimit/8)
	d := &Budget{limit: max(0, processLimit-reserve)}
	d.Refusals.most, d.Refusals.mostCut, d.Refusals.patience = reserve/4, reserve/16, refusalPatience
	d.Drains.most, d.Drains.mostCut = reserve/8, reserve/16
	return d
}

// Enter counts one more connection. It returns false, and counts nothing, if there is no room.
func (d *Budget) Enter() bool {
	n := d.connections.Add(1)
	if n > mostConnections || n+min(n, d.services.Load())+d.others.Load() > d.limit {
		d.connections.Add(-1)
		return false
	}
	return true
}

// Leave undoes one Enter that returned true.
func (d *Budget) Leave() { d.connections.Add(-1) }

// Clients is how many connections are counted.
func (d *Budget) Clients() int { return int(d.connections.Load()) }

// ServiceSockets is how many sockets to services are counted.
func (d *Budget) ServiceSockets() int { return int(d.services.Load()) }

// Taken is how many descriptors of processes and commands are counted.
func (d *Budget) Taken() int { return int(d.others.Load()) }

// InUse describes all that is counted, "" if nothing is.
func (d *Budget) InUse() string {
	now := [...]int64{d.connections.Load(), d.services.Load(), d.others.Load(), int64(d.Refusals.InUse()), int64(d.Drains.InUse())}
	if now == [len(now)]int64{} {
		return ""
	}
	return fmt.Sprintf("%d connections, %d sockets to services, %d descriptors of processes and commands, %d refused, %d of them draining",
		now[0], now[1], now[2], now[3], now[4])
}

// Take counts n descriptors of a process or a command. giveBack must be called once.
func (d *Budget) Take(n int64) (giveBack func()) {
	d.others.Add(n)
	return func() { d.others.Add(-n) }
}
