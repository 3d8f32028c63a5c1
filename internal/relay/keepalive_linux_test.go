package relay

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection to a service on another host has keep-alive, with the times that the manual tells. One on this
// host has none.
func TestKeepAlive(t *testing.T) {
	addresses := map[string]bool{"127.0.0.1": false, "::1": false}
	found, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range found {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			addresses[ip.IP.String()] = true // to this system it is on another host, as far as the address tells
		}
	}
	for address, want := range addresses {
		ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Logf("%s: %v", address, err) // no IPv6
			continue
		}
		defer ln.Close()
		conn, connectErr := Connect(within{t.Context()}, "tcp", ln.Addr().String())
		if connectErr != nil {
			t.Fatal(connectErr)
		}
		defer conn.Close()
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			option := func(level, name int) int {
				value, err := unix.GetsockoptInt(int(fd), level, name)
				if err != nil {
					t.Error(err)
				}
				return value
			}
			if on := option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0; on != want {
				t.Errorf("%s: found keep-alive %t, expected %t", address, on, want)
			}
			idle, interval, count := option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
			if want && idle+interval*count != 150 {
				t.Errorf("%s: found %d s and %d times %d s, expected 150 s in all", address, idle, count, interval)
			}
		})
	}
}
