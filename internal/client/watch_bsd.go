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

// silence is unknown here, so a TLS record has to arrive whole within Linger.
func silence(uintptr) time.Duration { return math.MaxInt64 }

// taken is unknown here, so only finished writes count.
func taken(uintptr) int64 { return 0 }
