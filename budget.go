package tcplock

import "sync/atomic"

// budget keeps the connections in all locks of the process within its file descriptors.
// When those run out caddy-l4 stops accepting for good, so a line that has no limit of
// its own must end before that.
var budget = newDescriptors(descriptorLimit())

// descriptors counts the connections that are in a lock, each of which has a
// descriptor, and one more for the service if it gets a slot.
type descriptors struct {
	limit       int64
	refusals    int64 // how many of those who are refused may be at refuse handlers at once
	connections atomic.Int64
	refused     atomic.Int64
	slots       atomic.Int64
}

// mostConnections bounds the line where descriptors do not: they would still need
// memory, about 6 KiB each.
const mostConnections = 100_000

// newDescriptors leaves an eighth of the process's descriptors to all else: listeners,
// logs, the admin API, connections that are just being accepted, hooks; but no less
// than 64, which is what a small Caddy needs. Half of that is for refuse handlers, which
// may need a second descriptor for each connection.
func newDescriptors(processLimit int64) *descriptors {
	reserve := max(64, processLimit/8)
	return &descriptors{limit: max(0, processLimit-reserve), refusals: reserve / 4}
}

// enter counts one more connection, or returns false if there may not be one.
func (d *descriptors) enter() bool {
	n := d.connections.Add(1)
	if n > mostConnections || n+min(n, d.slots.Load()) > d.limit {
		d.connections.Add(-1)
		return false
	}
	return true
}

func (d *descriptors) leave() { d.connections.Add(-1) }

// enterRefusal counts one more connection at refuse handlers, or returns false if there
// may not be one. They have a share of their own: when the others are used up is when
// connections are refused.
func (d *descriptors) enterRefusal() bool {
	if d.refused.Add(1) > d.refusals {
		d.refused.Add(-1)
		return false
	}
	return true
}

func (d *descriptors) leaveRefusal() { d.refused.Add(-1) }

func (d *descriptors) addSlots(n int) { d.slots.Add(int64(n)) }
