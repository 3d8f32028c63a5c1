package status

import "time"

// Process is the process of a slot.
type Process struct {
	State       string         `json:"state"` // see ProcessStopped and the following
	Since       time.Time      `json:"since"` // when this state began
	PID         int            `json:"pid,omitempty"`
	Connections int            `json:"connections"`           // how many have reached this process
	Due         string         `json:"due,omitempty"`         // why it will be restarted once its holder has gone
	Restarts    map[string]int `json:"restarts"`              // by reason
	LastReason  string         `json:"last_reason,omitempty"` // of the last restart or stop
	Failed      string         `json:"failed,omitempty"`      // why the last one failed; absent once one is ready
}

// The states of a process.
const (
	ProcessStopped    = "stopped"
	ProcessStarting   = "starting"
	ProcessReady      = "ready"
	ProcessStopping   = "stopping"
	ProcessBackingOff = "backing off" // a pause before the next try to start it
)

// Why a process is restarted or, for the last two, stopped.
const (
	RestartEvery       = "every"
	RestartInterval    = "interval"
	RestartMemory      = "memory"
	RestartHoldTimeout = "hold_timeout"
	RestartExit        = "exit"
	RestartKicked      = "kicked"
	RestartRequest     = "request"
	RestartConfig      = "config"
	StopIdle           = "idle"
	StopAsked          = "stop"
)

// RestartReasons has all reasons for a restart, each once.
var RestartReasons = []string{RestartEvery, RestartInterval, RestartMemory, RestartHoldTimeout, RestartKicked, RestartExit, RestartRequest, RestartConfig}
