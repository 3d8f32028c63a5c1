package tcplock_test

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TCPLock's own command line runs a lock: the second of two clients gets to the service
// only when the first has been cut, after as many milliseconds as -t says. An interrupt
// ends the program, with success.
func TestCommandRuns(t *testing.T) {
	const hold = 3 * time.Second
	buildCaddy(t) // before an address is chosen: it takes a while
	svc, addr := newService(t, echo), freeAddr(t)
	caddy := startCommand(t, "-l", portOf(t, addr), "-p", portOf(t, svc.addr), "-h", "127.0.0.1",
		"-n", "1", "-t", strconv.FormatInt(hold.Milliseconds(), 10))
	caddy.listens(t, addr)
	caddy.prints(t, fmt.Sprintf(`"msg":"lock listens","lock":"default","listen":[":%s"],"to":[%q],"slots":1}`, portOf(t, addr), svc.addr))

	begin := time.Now()
	first := dial(t, addr)
	send(t, first, "first")
	expect(t, first, "first")
	second := dial(t, addr)
	send(t, second, "second")
	expect(t, second, "second")
	if waited := time.Since(begin); waited < hold {
		t.Errorf("the second client was served after %s, expected to wait %s for the first", waited, hold)
	}
	expectClosed(t, first)

	caddy.interrupt()
	if out, err := caddy.result(t); err != nil && runtime.GOOS != "windows" {
		t.Errorf("after an interrupt: %v\n%s", err, out)
	}
}

// --help tells about the command although -h is the host there; so do the word help and
// a -h without a host. Caddy's own help knows the command too.
func TestCommandHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"-h"}, {"-l", "9000", "-h"}} {
		help, err := startCommand(t, args...).result(t)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		for _, want := range []string{"caddy tcplock --listen <port>", "-h, --host host", "      --help"} {
			if !strings.Contains(help, want) {
				t.Errorf("%q: found no %q in:\n%s", args, want, help)
			}
		}
	}
	help, err := start(t, nil, buildCaddy(t), "help").result(t)
	if err != nil || !strings.Contains(help, "\n  tcplock ") {
		t.Errorf("caddy help: error %v, expected tcplock in:\n%s", err, help)
	}
}

// What is wrong ends the program with an error: an unknown flag, a missing one, and
// what only shows when Caddy runs, an address that is taken.
func TestCommandFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, args := range map[string][]string{
		"unknown flag: --restart (see caddy tcplock --help)": {"--restart"},
		"found no --listen": {"-p", "1"},
		// Caddy finds out when it listens or, on Linux, tcplock before that: apps start in any order.
		taken.Addr().String(): {"-l", taken.Addr().String(), "-p", "1"},
	} {
		out, err := startCommand(t, args...).result(t)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, want) {
			t.Errorf("%v: error %v, expected exit status 1 and %q in:\n%s", args, err, want, out)
		}
	}
}

// startCommand runs "caddy tcplock" with these arguments. What files Caddy keeps, it
// keeps in the test's directory.
func startCommand(t *testing.T, args ...string) *program {
	t.Helper()
	dir := t.TempDir()
	return start(t, []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, buildCaddy(t), append([]string{"tcplock"}, args...)...)
}

// listens waits until the program accepts connections there.
func (p *program) listens(t *testing.T, addr string) {
	t.Helper()
	eventually(t, p.cmd.Path+" listens on "+addr, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
