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

// delivery returns how many bytes the client's system has acknowledged, and how long ago the last
// bytes came from the client.
func delivery(fd uintptr) (acked int64, silence time.Duration) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, math.MaxInt64 // not TCP
	}
	return int64(info.Bytes_acked), time.Duration(info.Last_data_recv) * time.Millisecond
}
