package sock

import (
	"encoding/binary"
	"io"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls that never wait, on sockets that do not block. Go's own tell the scheduler that they might wait.
// When one takes a little longer, as connect does, the scheduler then hands the processor to another thread, and
// that costs more than the call.

func read(fd int, b []byte) (n int, err error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return int(n), nil
		}
	}
}

func send(fd int, b []byte, flags int) (n int, err error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			uintptr(flags|unix.MSG_NOSIGNAL), 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		default:
			return int(n), nil
		}
	}
}

func shutdown(fd, how int) error {
	return orNil(unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0))
}

func closeFD(fd int) error { return orNil(unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)) }

func orNil(_, _ uintptr, errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// polled returns which of some poll events have come, among them errors.
func polled(fd int, events int16) int16 {
	fds, now := unix.PollFd{Fd: int32(fd), Events: events}, unix.Timespec{}
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	if errno != 0 || n == 0 {
		return 0
	}
	return fds.Revents
}

func family(to netip.AddrPort) int {
	if to.Addr().Unmap().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func connect(fd int, to netip.AddrPort) error {
	if ip := to.Addr().Unmap(); ip.Is4() {
		address := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ip.As4(), Port: networkOrder(to.Port())}
		return orNil(unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address)))
	}
	address := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Port: networkOrder(to.Port()), Scope_id: zoneID(to.Addr().Zone())}
	return orNil(unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address)))
}

func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
