package listen

import (
	"cmp"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const inherits = true // accepted connections have the keep-alive of their listener

// setKeepAlive sets keep-alive on a listening socket, with the defaults of [net.KeepAliveConfig]. The
// connections inherit it. Go would set it on each connection, with four system calls.
func setKeepAlive(ln *net.TCPListener, config net.KeepAliveConfig) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	seconds := func(d time.Duration) int {
		return int(cmp.Or(max(d, 0), 15*time.Second).Round(time.Second) / time.Second)
	}
	var errs [4]error
	err = raw.Control(func(fd uintptr) {
		for i, o := range [...]struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(config.Idle)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(config.Interval)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, cmp.Or(max(config.Count, 0), 9)},
		} {
			errs[i] = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
		}
	})
	return cmp.Or(err, errs[0], errs[1], errs[2], errs[3])
}
