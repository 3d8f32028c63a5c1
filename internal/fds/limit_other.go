//go:build !unix

package fds

import "math"

// descriptorLimit is none: sockets are bounded by memory here.
func descriptorLimit() int64 { return math.MaxInt64 }
