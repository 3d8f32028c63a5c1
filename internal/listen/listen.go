// Package listen keeps listening sockets through reloads: that is the network keep/. Where it is not used,
// the package makes up for what Caddy's own listeners lack. It accepts what a reload leaves in their
// queues, accepts where caddy-l4 has stopped accepting, and refuses an address on which another
// process listens already.
package listen

import (
	"net"
	"sync/atomic"
)

// arrivals counts the connections that were accepted on keep/.
var arrivals atomic.Uint64

// Conn is a connection that was accepted on keep/.
type Conn struct {
	*net.TCPConn
	arrival uint64      // its place in the order in which the process accepted connections
	read    atomic.Bool // a handler has read from it
}

// Arrival is the connection's place in the order of accept. It is 0 if something has read from the
// client: a client that was silent for long must not go before others.
func (c *Conn) Arrival() uint64 {
	if c.read.Load() {
		return 0
	}
	return c.arrival
}

// Read notes that something has read.
func (c *Conn) Read(b []byte) (int, error) {
	if !c.read.Load() { // which costs less than to set it each time
		c.read.Store(true)
	}
	return c.TCPConn.Read(b)
}
