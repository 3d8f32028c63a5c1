package listen

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// listenVar makes TestListenInAnotherProcess listen at an address, with SO_REUSEPORT as Caddy does.
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

// Elsewhere finds a second process on the address of this one. It does not object to a socket of this
// process, or to one at another IP address or port.
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
			own := map[string]string{ln.Addr().String(): "soffice"}
			if err := Elsewhere(own); err != nil {
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
			err = Elsewhere(own)
			if found := err != nil; found != test.want {
				t.Errorf("found %v, expected an error: %t", err, test.want)
			}
			owner := fmt.Sprintf(", pid %d) that listens on %s already", other.Process.Pid, ln.Addr())
			if err != nil && (!strings.HasPrefix(err.Error(), "lock soffice: found another process (") || !strings.Contains(err.Error(), owner)) {
				t.Errorf("found %v, expected the lock, the pid of the other process and the address", err)
			}
		})
	}
}

// At most reloads no address is new. Then nothing is read: on a machine with many sockets that takes
// long.
func TestListenNowhereNew(t *testing.T) {
	if n := testing.AllocsPerRun(10, func() { _ = Elsewhere(nil) }); n > 0 {
		t.Errorf("found %v allocations, expected none", n)
	}
}

// resolve finds the same address as net.Listen, and none for other networks, port 0 and unknown
// names.
func TestResolve(t *testing.T) {
	for address, want := range map[string]string{
		":9000":               "[::]:9000",
		"127.0.0.1:9000":      "127.0.0.1:9000",
		"[::1]:9000":          "[::1]:9000",
		"127.0.0.1:0":         "",
		"unix//run/a:9000":    "",
		"fd/3":                "",
		"no such host.x:9000": "",
	} {
		got := ""
		if addr, ok := resolve(address); ok {
			got = addr.String()
		}
		if got != want {
			t.Errorf("%s: found %q, expected %q", address, got, want)
		}
	}
	if addr, ok := resolve("localhost:9000"); !ok || !addr.Addr().IsLoopback() {
		t.Errorf("localhost: found %s, expected an address of the loopback", addr)
	}
}
