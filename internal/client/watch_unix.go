//go:build unix

package client

import (
	"golang.org/x/sys/unix"
)

// canWatch is true: look works here.
const canWatch = true

// look returns the state of the client's socket. It does not wait, and takes no byte out of the
// socket.
//
// Linux tells at once when a FIN has come (POLLRDHUP). Other systems show a FIN only when there is
// no data before it, so there a client is never peerClosed.
func look(fd uintptr) peer {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | pollRDHUP}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return peerOpen // EINTR, ENOMEM: unknown; the next event looks again
	}
	switch revents := fds[0].Revents; {
	case revents&(unix.POLLERR|unix.POLLNVAL) != 0:
		return peerReset
	case revents&(unix.POLLHUP|pollEnd) == 0:
		return peerOpen
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return peerOpen
	case err != nil:
		return peerReset
	case n == 0:
		return peerClosedEmpty
	case fds[0].Revents&(unix.POLLHUP|pollRDHUP) != 0:
		return peerClosed
	}
	return peerOpen
}
