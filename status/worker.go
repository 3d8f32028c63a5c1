package status

// Worker is the part of the service that belongs to one slot: an address, a process, or both. A service with
// one address is one worker, which belongs to all slots.
type Worker struct {
	Slot    int      `json:"slot"` // from 1; 0: all slots
	Address string   `json:"address,omitempty"`
	State   string   `json:"state"`             // see WorkerUp and the following
	Process *Process `json:"process,omitempty"` // absent: the lock starts no process
}

// The states of a worker.
const (
	WorkerUp      = "up"
	WorkerStopped = "stopped" // its process is stopped until a connection comes
	WorkerUnready = "unready" // its process is not ready
	WorkerRemoved = "removed" // its slot was removed, and its holder finishes
	WorkerOut     = "down"    // it could not be reached
)
