//go:build unix && !linux

package client

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pollRDHUP = 0
	pollEnd   = unix.POLLIN // the events after which look must look closer
)

// delivery is unknown here: only finished writes count, and a TLS record has to arrive whole within
// Linger.
func delivery(uintptr) (acked int64, silence time.Duration) { return 0, math.MaxInt64 }
