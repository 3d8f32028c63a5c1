package listen

import (
	"net"
	"testing"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

func guard(address string) *Guard {
	g := Watch(map[string]*layer4.Server{"a server": {Listen: []string{address}}}, zap.NewNop())
	g.listeners()
	return g
}

// After Stop, a guard has no copy of a socket open.
func TestGuardClosesCopies(t *testing.T) {
	const address = "unix/@tcplock-guard-closes-copies"
	ln, err := net.Listen("unix", address[len("unix/"):])
	if err != nil {
		t.Fatal(err)
	}
	g := guard(address)
	g.Stopping()
	ln.Close()
	g.Stop()
	again, err := net.Listen("unix", address[len("unix/"):])
	if err != nil {
		t.Fatalf("found a copy open: %v", err)
	}
	again.Close()
}

// A socket of the next config has the number that a socket of the config before has had. A guard
// accepts at its own config's socket alone.
func TestGuardKnowsItsSockets(t *testing.T) {
	listen := func(address string) net.Listener {
		ln, err := reusePort("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	before := listen("127.0.0.1:0")
	address := before.Addr().String()
	own := listen(address)
	g := guard(address)
	number := fdOf(t, before)
	before.Close()
	if next := listen(address); fdOf(t, next) != number {
		t.Fatalf("found number %d, expected %d again", fdOf(t, next), number)
	}
	g.Stopping()
	own.Close()
	if len(g.drained) != 1 {
		t.Errorf("found the guard to accept at %d sockets, expected its own one", len(g.drained))
	}
	g.Stop()
}

func fdOf(t *testing.T, ln net.Listener) (number int) {
	t.Helper()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { number = int(fd) })
	return number
}
