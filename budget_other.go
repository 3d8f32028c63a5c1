//go:build !unix

package tcplock

import "math"

// descriptorLimit is none: sockets are bounded by memory here.
func descriptorLimit() int64 { return math.MaxInt64 }
