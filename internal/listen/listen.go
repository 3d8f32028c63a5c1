// Package listen keeps listening sockets through reloads: that is the network keep/. Where it is not used,
// the package makes up for what Caddy's own listeners lack. It accepts what a reload leaves in their
// queues, accepts where caddy-l4 has stopped accepting, and refuses an address on which another
// process listens already.
package listen

import (
	"net"
	"sync/atomic"
)

// arrivals counts the connections of the process that have a place in the order of arrival.
var arrivals atomic.Uint64

// Arrive returns the next place in the order of arrival.
func Arrive() uint64 { return arrivals.Add(1) }

// Conn is a connection that was accepted on keep/.
type Conn struct {
	*net.TCPConn

	// Arrival is the connection's place in the order in which the process accepted connections.
	Arrival uint64
}
