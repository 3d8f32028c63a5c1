package client

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pollRDHUP = unix.POLLRDHUP
	pollEnd   = unix.POLLRDHUP // the events after which look must look closer
)

// taken is how many bytes the client's system has acknowledged.
func taken(fd uintptr) int64 {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0 // not TCP
	}
	return int64(info.Bytes_acked)
}

// silence is how long ago the last bytes came from the client.
func silence(fd uintptr) time.Duration {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return math.MaxInt64 // not TCP
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond
}
