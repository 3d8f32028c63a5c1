//go:build !unix

package fds

import "math"

// descriptorLimit is unlimited: here only memory limits the number of sockets.
func descriptorLimit() int64 { return math.MaxInt64 }
