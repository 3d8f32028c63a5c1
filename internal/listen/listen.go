// Package listen has the network keep/, whose sockets survive reloads, and makes up for what Caddy's
// own listeners lack: it accepts connections where caddy-l4 has stopped accepting them, and refuses
// an address on which another process listens already.
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
