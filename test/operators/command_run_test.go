package operators_test

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

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// TCPLock's own command line runs a lock. The second of two clients gets to the service only
// when the first has been cut, after as many milliseconds as -t says. An interrupt ends the
// program with success.
func TestCommandRuns(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	const hold = 3 * time.Second
	caddytest.Caddy(t) // makes the program before an address is chosen, because that takes a while
	svc, addr := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
	caddy := caddytest.StartCommand(t, "-l", caddytest.PortOf(t, addr), "-p", caddytest.PortOf(t, svc.Addr), "-h", "127.0.0.1",
		"-n", "1", "-t", strconv.FormatInt(hold.Milliseconds(), 10))
	caddy.Listens(t, addr)
	caddy.Prints(t, fmt.Sprintf(`"msg":"lock listens","lock":"default","listen":[":%s"],"to":[%q],"slots":1}`, caddytest.PortOf(t, addr), svc.Addr))

	begin := time.Now()
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "first")
	caddytest.Expect(t, first, "first")
	second := caddytest.Dial(t, addr)
	caddytest.Send(t, second, "second")
	caddytest.Expect(t, second, "second")
	if waited := time.Since(begin); waited < hold {
		t.Errorf("the second client was served after %s, expected to wait %s for the first", waited, hold)
	}
	caddytest.ExpectClosed(t, first)

	caddy.Interrupt()
	if out, err := caddy.Result(t); err != nil && runtime.GOOS != "windows" {
		t.Errorf("after an interrupt: %v\n%s", err, out)
	}
}

// --help shows the help of the command, although -h is the host. So do the word help, and -h
// without a host. Caddy's own help lists the command too.
func TestCommandHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"help"}, {"-h"}, {"-l", "9000", "-h"}} {
		help, err := caddytest.StartCommand(t, args...).Result(t)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		for _, want := range []string{"caddy tcplock --listen <port>", "-h, --host host", "      --help"} {
			if !strings.Contains(help, want) {
				t.Errorf("%q: found no %q in:\n%s", args, want, help)
			}
		}
	}
	help, err := caddytest.Start(t, nil, caddytest.Caddy(t), "help").Result(t)
	if err != nil || !strings.Contains(help, "\n  tcplock ") {
		t.Errorf("caddy help: error %v, expected tcplock in:\n%s", err, help)
	}
}

// Errors end the program: an unknown flag, a missing flag, and one that only shows when Caddy
// runs, a taken address.
func TestCommandFails(t *testing.T) {
	t.Parallel()
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
		out, err := caddytest.StartCommand(t, args...).Result(t)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, want) {
			t.Errorf("%v: error %v, expected exit status 1 and %q in:\n%s", args, err, want, out)
		}
	}
}
