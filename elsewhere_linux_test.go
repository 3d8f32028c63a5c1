package tcplock

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain's program for another process that listens, with SO_REUSEPORT as Caddy does.
const listenVar = "TCPLOCK_TEST_LISTEN"

func reusePort(network, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return err
	}}
	return config.Listen(context.Background(), network, address)
}

func TestListenInAnotherProcess(t *testing.T) {
	if address := os.Getenv(listenVar); address != "" {
		ln, err := reusePort("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("listening\n")
		_, _ = ln.Accept() // for ever: it is killed
	}
}

// A second process that listens where this one does is found; a socket of this process, one at
// another IP address and one at another port are not taken for it.
func TestListenElsewhere(t *testing.T) {
	for _, test := range []struct {
		other, own string // the hosts
		want       bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"0.0.0.0", "127.0.0.1", true},
		{"127.0.0.1", "0.0.0.0", true},
		{"[::]", "127.0.0.1", true},
		{"[::]", "[::]", true},
		{"[::1]", "[::1]", true},
		{"127.0.0.2", "127.0.0.1", false},
		{"[::1]", "127.0.0.1", false},
	} {
		t.Run(test.other+" beside "+test.own, func(t *testing.T) {
			t.Parallel()
			ln, err := reusePort("tcp", test.own+":0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			own := ln.Addr().(*net.TCPAddr).AddrPort()
			if err := listenElsewhere([]netip.AddrPort{own}); err != nil {
				t.Fatalf("this process alone: %v", err)
			}
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			other := exec.Command(os.Args[0], "-test.run", "^TestListenInAnotherProcess$")
			other.Env = append(os.Environ(), listenVar+"="+test.other+":"+port)
			out, err := other.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = other.Process.Kill()
				_ = other.Wait()
			}()
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
				t.Fatalf("the other process: found %q, %v, expected it to listen", line, err)
			}
			err = listenElsewhere([]netip.AddrPort{own})
			if found := err != nil; found != test.want {
				t.Errorf("found %v, expected an error: %t", err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), "pid") {
				t.Errorf("found %v, expected the pid of the other process", err)
			}
		})
	}
}
