package listen

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keepHandle returns a config's handle on an address of keep/. end ends the config.
func keepHandle(t *testing.T, port string) (h *handle, end context.CancelFunc) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	ln, err := listenKeep(ctx, Network, "127.0.0.1", port, 0, net.ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return ln.(*handle), end
}

// freePort returns a port on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// Connections inherit keep-alive from the listener, after ten reloads as at first. Go sets it on none of
// them: it would have to say so to the system, and the listener is not asked to.
func TestKeepAliveIsInherited(t *testing.T) {
	port := freePort(t)
	h, end := keepHandle(t, port)
	for range 10 {
		next, endNext := keepHandle(t, port)
		end()
		<-h.closed
		h, end = next, endNext
	}
	client, err := net.Dial("tcp", h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := h.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ level, name, want int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
	} {
		var got int
		_ = raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), o.level, o.name) })
		if err != nil || got != o.want {
			t.Errorf("option %d: found %d, %v, expected %d", o.name, got, err, o.want)
		}
	}
}

// The accept queue is as long as the system allows.
func TestBacklog(t *testing.T) {
	h, _ := keepHandle(t, freePort(t))
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(string(text))
	raw, err := h.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	_ = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(info.Sacked); got != want { // what this field has for a listener, see tcp_get_info in Linux
		t.Errorf("found a backlog of %s, expected %s", got, want)
	}
}

// A handle that is closed while it accepts stops. The connections that come go to another handle of
// the socket.
func TestClosedHandleStops(t *testing.T) {
	port := freePort(t)
	first, endFirst := keepHandle(t, port)
	second, endSecond := keepHandle(t, port)
	stopped := make(chan error)
	accept := func(h *handle) {
		conn, err := h.Accept()
		if err == nil {
			conn.Close()
		}
		stopped <- err
	}
	go accept(first)
	time.Sleep(10 * time.Millisecond) // so that it mostly is the one that accepts
	go accept(second)
	endFirst()
	if err := <-stopped; err == nil {
		t.Error("found the closed handle to accept, expected an error")
	}
	client, err := net.Dial("tcp", second.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := <-stopped; err != nil {
		t.Errorf("the other handle: %v", err)
	}
	endSecond()
	_ = second.Close() // waits until it is closed
	if conn, err := net.Dial("tcp", second.Addr().String()); err == nil {
		conn.Close()
		t.Error("found the socket open after its last config, expected it closed")
	}
}

// An address goes and comes back at once: the socket is closed before it is opened again, whether the
// config before has ended already or ends beside this one.
func TestAddressGoesAndComes(t *testing.T) {
	port := freePort(t)
	for i := range 5000 {
		ctx, end := context.WithCancel(t.Context())
		ln, err := listenKeep(ctx, Network, "127.0.0.1", port, 0, net.ListenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if end(); i%2 == 0 {
			_ = ln.(*handle).Close() // waits until the handle is closed
		}
	}
}

// A connection's place is that of accept, until something reads from the client, which may have been silent
// for long.
func TestArrival(t *testing.T) {
	h, _ := keepHandle(t, freePort(t))
	accept := func() (*net.TCPConn, *Conn) {
		client, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		conn, err := h.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return client.(*net.TCPConn), conn.(*Conn)
	}
	client, first := accept()
	_, second := accept()
	if first.Arrival() >= second.Arrival() {
		t.Errorf("found places %d and %d, expected the order of accept", first.Arrival(), second.Arrival())
	}
	_, _ = client.Write([]byte("x"))
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if first.Arrival() != 0 {
		t.Errorf("found place %d after something has read, expected none", first.Arrival())
	}
}
