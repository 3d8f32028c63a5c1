package client

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pollRDHUP = unix.POLLRDHUP
	pollEnd   = unix.POLLRDHUP // the events at which it is worth looking closer
)

// taken is how many bytes the client's system has taken from us.
func taken(fd uintptr) int64 {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0 // not TCP
	}
	return int64(info.Bytes_acked)
}

// silence is how long nothing has come from the client.
func silence(fd uintptr) time.Duration {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return math.MaxInt64 // not TCP
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond
}
