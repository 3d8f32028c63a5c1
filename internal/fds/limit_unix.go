//go:build unix

package fds

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit is the soft limit, which the Go runtime has raised to the hard one
// when the process started.
func descriptorLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int64(min(uint64(limit.Cur), math.MaxInt64))
}
