// Package inside shows black-box tests what clients, services and operators cannot see: above all,
// when a connection is in line, and that nothing is left at the end of a test.
package inside

import "time"

// Lock is a lock that is in use. It may be in no config any more, if it still has connections.
type Lock struct {
	Name                           string
	Slots, Held, Waiting, LeftOver int
	Clients                        int // clients that the lock remembers for max_per_client
}

// Budget is what the budget of descriptors counts.
type Budget struct {
	Connections, ServiceSockets int64
	Others                      int64 // descriptors of processes, commands and pipes
	Refused, Draining           int64 // connections at refuse handlers, or that do not have the end of the answer yet
}

// View shows the state of the process to tests, and lets them set limits.
type View interface {
	Locks() []Lock
	Ending() int    // slots and addresses with a process that has not ended, also of locks that are no more
	Budget() Budget // all that the budget of descriptors counts

	// These set a limit. restore resets it.
	SetDescriptorLimit(n int64) (restore func())
	SetListenFor(d time.Duration) (restore func())
	SetLongestOutage(d time.Duration) (restore func())
}

// Process is the view of this process. Package lock sets it.
var Process View

// Hubs returns how many hubs of status pages are in use. Package page sets it.
var Hubs func() int
