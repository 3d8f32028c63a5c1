//go:build unix

package hooks_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// command is a command that a test writes, and its directory.
type command struct{ path, dir string }

// newCommand writes a command, a shell script unless text names another interpreter. It writes
// none if text is empty.
func newCommand(t *testing.T, text string) command {
	t.Helper()
	c := command{dir: t.TempDir()}
	c.path = filepath.Join(c.dir, "command")
	if text != "" {
		c.write(t, text)
	}
	return c
}

// write replaces the command. It does not write to a file that may still be running.
func (c command) write(t *testing.T, text string) {
	t.Helper()
	if !strings.HasPrefix(text, "#!") {
		text = "#!/bin/sh\n" + text
	}
	if err := os.WriteFile(c.path+".new", []byte(text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.path+".new", c.path); err != nil {
		t.Fatal(err)
	}
}

// lines returns the lines of a file in the command's directory.
func (c command) lines(file string) []string {
	text, _ := os.ReadFile(filepath.Join(c.dir, file))
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// Seven clients come one after the other. For every third, a command notes that it has run. The
// service reads the notes as soon as it accepts a connection, so the command must have run
// before.
func TestActivateCommandEveryThird(t *testing.T) {
	c := newCommand(t, `echo "$TCPLOCK_CONNECTION" >> notes`)
	svc := caddytest.NewService(t, func(conn *net.TCPConn) { _, _ = fmt.Fprint(conn, c.lines("notes")) })
	addr := hookServer(t, 1, fmt.Sprintf("on activate {\nevery 3\nexec %s {\ndir %s\n}\n}", c.path, c.dir), svc.Addr)
	caddytest.LeakCheck(t)
	for _, want := range []string{"[1]", "[1]", "[1]", "[1 4]", "[1 4]", "[1 4]", "[1 4 7]"} {
		conn := caddytest.Dial(t, addr)
		caddytest.Expect(t, conn, want)
		caddytest.ExpectEOF(t, conn)
	}
}

// A command that fails in any way costs one connection, which is refused. The test
// repairs the command for the next waiter, which is served. Nothing that the command has started is
// left.
func TestCommandThatFails(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, test := range []struct{ name, text, options string }{
		{"does not exist", "", ""},
		{"cannot be run", "#!/no/such/interpreter", ""},
		{"ends with an error", "echo oh; exit 3", ""},
		{"leaves a child", "sleep 1000 & echo $! > pids; exit 1", ""},
		{"hangs", "sleep 1000 & (sleep 1000 & echo $$ $! > pids; wait) & wait", "timeout 1s"},
		{"ignores the request to end", "trap '' HUP INT TERM; echo $$ > pids; while :; do sleep 1000; done", "timeout 1s"},
		{"prints for ever", "echo $$ > pids; yes", "timeout 1s"},
		{"prints a lot and fails", "head -c 100000000 /dev/zero; exit 1", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCommand(t, test.text)
			gate := newCommand(t, "while ! test -e open; do sleep 0.01; done")
			svc := caddytest.NewService(t, caddytest.Echo)
			// The gate holds the first connection until the second stands in line.
			addr := hookServer(t, 1, fmt.Sprintf("on activate exec %s {\ndir %s\n}\non activate {\nevery 1000\nexec %s {\ndir %s\n%s\n}\n}\non release exec %s {\ndir %s\n}",
				gate.path, gate.dir, c.path, c.dir, test.options, gate.path, c.dir), svc.Addr)
			caddytest.LeakCheck(t)
			first := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 0)
			next := caddytest.Dial(t, addr)
			caddytest.InLine(t, "default", 1, 1)
			caddytest.Send(t, next, "hello")
			caddytest.Touch(t, gate.dir, "open")
			caddytest.Expect(t, first, "hook_failed")
			caddytest.ExpectClosed(t, first)
			expectDead(t, c)
			c.write(t, "exit 0")
			caddytest.Touch(t, c.dir, "open") // lets the release hook end
			caddytest.Expect(t, next, "hello")
			_ = next.CloseWrite()
			caddytest.ExpectEOF(t, next)
			caddytest.InLine(t, "default", 0, 0)
			if _, _, total := svc.Counts(); total != 1 {
				t.Errorf("%d connections reached the service, expected 1", total)
			}
		})
	}
}

// expectDead makes sure that the processes that the command has noted are gone.
func expectDead(t *testing.T, c command) {
	t.Helper()
	for _, word := range strings.Fields(strings.Join(c.lines("pids"), " ")) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		caddytest.Eventually(t, fmt.Sprintf("process %d is dead", pid), func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // an orphan may still be there, dead
			return syscall.Kill(pid, 0) != nil || bytes.Contains(stat, []byte(") Z "))
		})
	}
}

// Commands at other moments fail too. No client notices: hold_timeout cuts one, the full line
// refuses another, and the slot goes on.
func TestCommandsThatFailAtOtherMoments(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, `hold_timeout 2s
		max_waiting 1
		on timeout exec /no/such/command
		on timeout exec sleep 1000 {
			timeout 100ms
		}
		on release exec false
		on refuse exec /no/such/command`, svc.Addr)
	caddytest.LeakCheck(t)
	for i := range 3 {
		caddytest.Send(t, caddytest.Dial(t, addr), caddytest.Number(i))
		conn := svc.Next(t)
		caddytest.Expect(t, conn, caddytest.Number(i))
		next := caddytest.Dial(t, addr)
		caddytest.InLine(t, "default", 1, 1)
		surplus := caddytest.Dial(t, addr)
		caddytest.Expect(t, surplus, "refused_full")
		caddytest.ExpectClosed(t, surplus)
		next.Close()
		caddytest.ExpectEOF(t, conn) // hold_timeout
		svc.Leave(conn)
	}
	caddytest.InLine(t, "default", 0, 0)
}

// Commands at four moments of one config. The first client is served, the second is cut by
// hold_timeout, the third finds the line full, and the fourth is served. The commands run in
// this order. Their environment has all facts about the connection, and nothing else under
// these names.
func TestCommandsInOrder(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	c := newCommand(t, `env | grep '^TCPLOCK_' | grep -v REQUIRE_SERVICES | sed 's/^TCPLOCK_//' | sort > "$1.new"
		mv "$1.new" "$1-$TCPLOCK_CONNECTION"
		echo "$1-$TCPLOCK_CONNECTION" >> order`)
	var hooks strings.Builder
	for _, moment := range []string{"activate", "release", "timeout", "refuse"} {
		fmt.Fprintf(&hooks, "on %s exec %s %s {\ndir %s\n}\n", moment, c.path, moment, c.dir)
	}
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "name printer\nmax_waiting 0\nhold_timeout 3s\n"+hooks.String(), svc.Addr)
	caddytest.LeakCheck(t)
	var clients []string
	come := func() *net.TCPConn {
		conn := caddytest.Dial(t, addr)
		clients = append(clients, conn.LocalAddr().String())
		return conn
	}
	come()
	svc.Leave(svc.Next(t))
	caddytest.InLine(t, "printer", 0, 0)
	second := come()
	wedged := svc.Next(t)
	third := come()
	caddytest.Expect(t, third, "refused_full")
	caddytest.ExpectClosed(t, third)
	caddytest.Eventually(t, "the refuse hook has run", func() bool { return slices.Contains(c.lines("order"), "refuse-3") })
	caddytest.ExpectClosed(t, second)
	caddytest.InLine(t, "printer", 0, 0)
	svc.Leave(wedged)
	come()
	svc.Leave(svc.Next(t))
	caddytest.InLine(t, "printer", 0, 0)

	order := []string{"activate-1", "release-1", "activate-2", "refuse-3", "timeout-2", "release-2", "activate-4", "release-4"}
	if got := c.lines("order"); !slices.Equal(got, order) {
		t.Errorf("found %s, expected %s", got, order)
	}
	for _, run := range []struct {
		moment     string
		client     int // by number, from 0
		connection int
		slot       int
		reason     string
	}{
		{"activate", 0, 1, 1, ""},
		{"release", 0, 1, 1, "served"},
		{"activate", 1, 2, 1, ""},
		{"timeout", 1, 2, 1, "hold_timeout"},
		{"release", 1, 2, 1, "hold_timeout"},
		{"refuse", 2, 3, 0, "refused_full"},
		{"activate", 3, 4, 1, ""},
		{"release", 3, 4, 1, "served"},
	} {
		want := []string{
			"CLIENT=" + clients[run.client],
			fmt.Sprint("CONNECTION=", run.connection),
			"MOMENT=" + run.moment,
			"NAME=printer",
			"REASON=" + run.reason,
			fmt.Sprint("SLOT=", run.slot),
			"WAITED=0s",
			"WORKER=",
			"WORKER_HOST=",
			"WORKER_PORT=",
		}
		if got := c.lines(fmt.Sprintf("%s-%d", run.moment, run.connection)); !slices.Equal(got, want) {
			t.Errorf("found %q, expected %q", got, want)
		}
	}
}
