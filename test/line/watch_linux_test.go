package line_test

import (
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A client sends its job, closes and goes. Its system forgets the connection, by default after
// a minute. When the lock's system then checks whether the client is still there, the answer is
// a reset. The job is still served, however long it has to wait.
func TestJobOfForgottenClient(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock", svc.Addr)
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "first")
	conn := svc.Next(t)

	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "job")
	caddytest.InLine(t, "default", 1, 1)
	port := client.LocalAddr().(*net.TCPAddr).Port
	lockSide := lockSocket(t, port)
	setOption(t, lockSide, unix.TCP_KEEPIDLE, 1) // seconds; 15 by default
	setOption(t, lockSide, unix.TCP_KEEPINTVL, 1)
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { setOption(t, int(fd), unix.TCP_LINGER2, 1) })
	client.Close()
	time.Sleep(4 * time.Second) // forgotten after one; then there is an answer each second
	caddytest.InLine(t, "default", 1, 1)

	svc.Leave(conn)
	conn = svc.Next(t)
	caddytest.Expect(t, conn, "job")
	caddytest.ExpectEOF(t, conn)
}

// lockSocket returns the lock's descriptor for the client with that port.
func lockSocket(t *testing.T, port int) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		if peer, err := unix.Getpeername(fd); err == nil {
			if peer, ok := peer.(*unix.SockaddrInet4); ok && peer.Port == port {
				return fd
			}
		}
	}
	t.Fatalf("found no connection from port %d", port)
	return 0
}

func setOption(t *testing.T, fd, option, value int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value); err != nil {
		t.Fatal(err)
	}
}
