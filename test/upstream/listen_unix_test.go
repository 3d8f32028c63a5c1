//go:build unix

package upstream_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A server of caddy-l4 accepts no more after one accept has failed because no file descriptor was
// left, although there are enough a moment later.
func TestAcceptEndsAtEMFILE(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	addr := freeAddr(t)
	mustLoad(t, addr+" {\nroute {\necho\n}\n}")
	if !answered(dial(t, addr), patience) {
		t.Fatal("found no answer at first")
	}
	first := withoutDescriptors(t, addr)
	defer first.Close()
	const wait = time.Second / 2
	if answered(first, wait) || answered(dial(t, addr), wait) {
		mended(t, "caddy-l4", "an answer after a failed accept",
			"Guard.watch of internal/listen with TestStandIn, and what docs/running.md says of a process without descriptors")
	}
	if ln, err := net.Listen("tcp", addr); err == nil {
		ln.Close()
		t.Error("found nothing that listens, expected a socket at which caddy-l4 no longer accepts")
	}
}

// withoutDescriptors connects to a server of this process while the process may open no descriptor.
func withoutDescriptors(t *testing.T, addr string) net.Conn {
	t.Helper()
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) // now, for it needs a descriptor
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	before := serving()
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())})
	for end := time.Now().Add(time.Second); serving() == before && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || restored != nil {
		t.Fatal(err, restored)
	}
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// serving returns how many servers of caddy-l4 accept connections in this process.
func serving() int {
	stacks := make([]byte, 4<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "layer4.(*Server).serve(")
}

// layer4 opens one listener, and fails at the second, whose address is taken. Caddy refuses the
// config. The first listener stays open, and serves the config that never was in force.
func TestFailedStartLeaksListener(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := freeAddr(t)
	if err := load(t, fmt.Sprintf("%s %s {\nroute {\necho\n}\n}", addr, taken.Addr())); err == nil {
		t.Fatal("found no error, expected an address that is in use")
	}
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		defer conn.Close()
	}
	if err != nil || !answered(conn, patience) {
		mended(t, "Caddy or caddy-l4", "no listener of the refused config", "the end of a handle by its context in internal/listen/keep_unix.go")
	}
}
