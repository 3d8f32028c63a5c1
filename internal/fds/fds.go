// Package fds keeps the connections of all locks within the file descriptors of the process.
package fds

import (
	"fmt"
	"sync/atomic"
)

// Process keeps the connections in all locks of the process within its file descriptors.
// When those run out caddy-l4 stops accepting for good, so a line that has no limit of
// its own must end before that.
var Process = New(descriptorLimit())

// Budget counts the descriptors that the locks have open, and those that they may still open for
// the connections that they have let in. A connection has one descriptor for its client, and one more
// for the service when it gets a slot. Processes and commands always get their descriptors: they
// lower the number of connections that may come in.
type Budget struct {
	limit       int64
	connections atomic.Int64 // each once, however many locks it is in
	services    atomic.Int64 // sockets to services that there are or may be, see sockets
	others      atomic.Int64 // of processes and commands

	Refusals Seats // connections at refuse handlers
	Drains   Seats // refused connections whose clients still send
}

// mostConnections bounds the line where descriptors do not: they would still need
// memory, about 6 KiB each.
const mostConnections = 100_000

// What Caddy keeps open for each of these, as long as it runs.
const (
	PerProcess = 3 // its output, the line to the guard of its group, and one to wait for its end
	PerWait    = 1 // to wait for the end of a command
	PerOutput  = 1 // the output of a command, which may outlive it
)

// New leaves an eighth of the process's descriptors to all else: listeners,
// logs, the admin API, connections that are just being accepted, files that are open for
// a moment; but no less than 64, which is what a small Caddy needs. Two thirds of that are
// for connections that are refused, since that is when the others are used up: a refuse
// handler may need a second descriptor for each connection, and may keep that one for a
// while after its client was cut.
func New(processLimit int64) *Budget {
	reserve := max(64, processLimit/8)
	d := &Budget{limit: max(0, processLimit-reserve)}
	d.Refusals.most, d.Refusals.mostCut, d.Refusals.patience = reserve/4, reserve/16, refusalPatience
	d.Drains.most, d.Drains.mostCut = reserve/8, reserve/16
	return d
}

// Enter counts one more connection, or returns false if there may not be one.
func (d *Budget) Enter() bool {
	n := d.connections.Add(1)
	if n > mostConnections || n+min(n, d.services.Load())+d.others.Load() > d.limit {
		d.connections.Add(-1)
		return false
	}
	return true
}

func (d *Budget) Leave() { d.connections.Add(-1) }

// Clients is how many connections are counted.
func (d *Budget) Clients() int { return int(d.connections.Load()) }

// ServiceSockets is how many sockets to services are counted.
func (d *Budget) ServiceSockets() int { return int(d.services.Load()) }

// Taken is how many descriptors of processes and commands are counted.
func (d *Budget) Taken() int { return int(d.others.Load()) }

// InUse says what is counted in all, "" if that is nothing.
func (d *Budget) InUse() string {
	now := [...]int64{d.connections.Load(), d.services.Load(), d.others.Load(), int64(d.Refusals.InUse()), int64(d.Drains.InUse())}
	if now == [len(now)]int64{} {
		return ""
	}
	return fmt.Sprintf("%d connections, %d sockets to services, %d descriptors of processes and commands, %d refused, %d of them draining",
		now[0], now[1], now[2], now[3], now[4])
}

// Take counts descriptors of a process or a command, and returns what gives them back.
func (d *Budget) Take(n int64) (giveBack func()) {
	d.others.Add(n)
	return func() { d.others.Add(-n) }
}
