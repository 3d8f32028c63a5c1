package relay

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

// prepare readies a connection that is there.
func prepare(conn *sock.Conn, to netip.AddrPort) error {
	if mayBeSelf(to) && isSelf(conn) {
		return errSelf{}
	}
	if to.Addr().Unmap().IsLoopback() {
		return nil // the system knows when that service ends
	}
	return conn.Control(func(fd uintptr) {
		for _, o := range [...]struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds())},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval.Seconds())},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAlive.Count},
		} {
			_ = unix.SetsockoptInt(int(fd), o.level, o.name, o.value) // as Go does: the connection is of use without
		}
	})
}

// mayBeSelf reports whether the system gives the port to clients. Most services have another one, and then the
// question need not be asked of each connection.
func mayBeSelf(to netip.AddrPort) bool {
	first, last := clientPorts()
	return to.Port() >= first && to.Port() <= last
}

var clientPorts = sync.OnceValues(func() (first, last uint16) {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if n, _ := fmt.Sscan(string(text), &first, &last); n < 2 {
		return 0, math.MaxUint16
	}
	return first, last
})
