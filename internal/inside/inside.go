// Package inside lets tests that look at tcplock from outside know what it tells no client, service
// or operator: above all, when a connection stands in line, and that nothing is left over at the end.
package inside

import "time"

// Lock is a lock that is in use, also one that no config has any more.
type Lock struct {
	Name                           string
	Slots, Held, Waiting, LeftOver int
	Clients                        int // those that it remembers for their bounds
}

// View is what the tests need to see of the process, and two limits that they need to set.
type View interface {
	Locks() []Lock
	Ending() int    // places of processes that have not ended, also of locks that are no more
	Boards() int    // status pages that are in use
	Counted() int   // connections that the budget of descriptors counts
	Draining() int  // refused connections whose clients have still to take the end of the answer
	Budget() string // what the budget of descriptors counts in all; "": nothing

	// These set a limit for the time of a test.
	SetDescriptorLimit(n int64) (restore func())
	SetListenFor(d time.Duration) (restore func())
}

// Process is this process. The package tcplock sets it.
var Process View
