//go:build unix

package relay_test

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// buffers makes the buffers of a socket small or large, and its segments. With small segments the other side's
// system buffers little as well. The connections of a listener inherit that.
func buffers(fd uintptr, small bool) {
	size, segment := 200_000, 0
	if small {
		size, segment = 4096, 536
	}
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)
}

func setBuffers(socket syscall.RawConn, small bool) {
	_ = socket.Control(func(fd uintptr) { buffers(fd, small) })
}
