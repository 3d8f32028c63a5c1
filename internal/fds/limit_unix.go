//go:build unix

package fds

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit is the soft limit. The Go runtime has raised it to the hard one at the start of
// the process.
func descriptorLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int64(min(uint64(limit.Cur), math.MaxInt64))
}
