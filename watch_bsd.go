//go:build unix && !linux

package tcplock

import "golang.org/x/sys/unix"

const (
	pollRDHUP = 0
	pollEnd   = unix.POLLIN // the events at which it is worth looking closer
)
