package tcplock

import "golang.org/x/sys/unix"

const (
	pollRDHUP = unix.POLLRDHUP
	pollEnd   = unix.POLLRDHUP // the events at which it is worth looking closer
)
