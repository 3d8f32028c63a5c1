package status

import "time"

// Process is a process that the lock runs.
type Process struct {
	State       string         `json:"state"` // stopped, starting, ready, stopping, backing off
	Since       time.Time      `json:"since"`
	PID         int            `json:"pid,omitempty"`
	Connections int            `json:"connections"`           // that have reached it
	Due         string         `json:"due,omitempty"`         // why it is restarted when its holder is gone
	Restarts    map[string]int `json:"restarts"`              // by reason
	LastReason  string         `json:"last_reason,omitempty"` // of the last restart or stop
	Failed      string         `json:"failed,omitempty"`      // why it could not start or keep running, until one is ready
}

// The states of a process.
const (
	ProcessStopped    = "stopped"
	ProcessStarting   = "starting"
	ProcessReady      = "ready"
	ProcessStopping   = "stopping"
	ProcessBackingOff = "backing off"
)

// Why a process is restarted or, with the last two, stopped.
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

var RestartReasons = []string{RestartEvery, RestartInterval, RestartMemory, RestartHoldTimeout, RestartKicked, RestartExit, RestartRequest, RestartConfig}
