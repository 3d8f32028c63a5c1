package status

// Worker is what stands behind one slot.
type Worker struct {
	Slot    int      `json:"slot"`
	Address string   `json:"address,omitempty"`
	State   string   `json:"state"` // up, stopped (its process is, until a connection comes), down (it could not be reached), removed (it finishes its holder), or unready (its process is)
	Process *Process `json:"process,omitempty"`
}

// The states of a worker.
const (
	WorkerUp      = "up"
	WorkerStopped = "stopped"
	WorkerUnready = "unready"
	WorkerRemoved = "removed"
	WorkerOut     = "down"
)
