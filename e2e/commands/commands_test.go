// Package commands_test runs "caddy tcplock ..." as operators and scripts do. What a command prints
// stands in testdata/script, in scripts of testscript, one for each topic.
package commands_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The test binary contains all of Caddy. So it is the program caddy of the scripts too. It is also the
// journalctl of the scripts: no systemd keeps the log of their Caddy.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"caddy": caddycmd.Main, "journalctl": journal, "deploy": func() {}})
}

func TestScripts(t *testing.T) {
	testscript.RunT(scriptT{t}, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setUp,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start":      start,
			"client":     client,
			"leave":      leave,
			"cut":        cut,
			"refused":    refused,
			"finishes":   finishes,
			"eventually": eventually,
			"exits":      exits,
			"later":      later,
			"ends":       ends,
			"shows":      shows,
			"prints":     prints,
			"runs":       runs,
			"begins":     begins,
			"types":      types,
			"says":       says,
			"listens":    listens,
			"stops":      stops,
		},
	})
}

// scriptT gives the commands of a script the *testing.T that caddytest needs.
type scriptT struct{ *testing.T }

func (t scriptT) Verbose() bool { return testing.Verbose() }

func (t scriptT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(scriptT{t}) })
}

// world is what a script has started.
type world struct {
	t       *testing.T
	clients map[string]net.Conn
	started map[string]*caddytest.Program
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value("world").(*world) }

// setUp gives a script its addresses: $ADMIN of Caddy's admin API, $LOCK, $OTHER and $THIRD for locks,
// $SERVICE of a service that keeps each connection until the client leaves, $SILENT of one that never
// closes a connection, and $NONE, where no service is. The commands find the admin API by CADDY_ADMIN.
// $LOG is a file for Caddy's log. $P8080 and so on are free addresses for ports in the docs.
func setUp(env *testscript.Env) error {
	t := env.T().(scriptT).T
	env.Values["world"] = &world{t: t, clients: map[string]net.Conn{}, started: map[string]*caddytest.Program{}}
	env.Setenv("SERVICE", caddytest.NewService(t, caddytest.Echo).Addr)
	env.Setenv("SILENT", caddytest.NewService(t, nil).Addr)
	env.Setenv("NONE", caddytest.FreeAddr(t))
	env.Setenv("LOG", filepath.Join(env.WorkDir, "caddy.log"))
	env.Setenv("LOCK", caddytest.FreeAddr(t))
	env.Setenv("OTHER", caddytest.FreeAddr(t))
	env.Setenv("THIRD", caddytest.FreeAddr(t))
	admin := caddytest.FreeAddr(t)
	env.Setenv("ADMIN", admin)
	env.Setenv("CADDY_ADMIN", admin)
	for _, port := range free {
		env.Setenv("P"+port, caddytest.FreeAddr(t))
	}
	env.Setenv("BUSY_PORT", caddytest.PortOf(t, env.Getenv("P8503")))
	env.Setenv("XDG_DATA_HOME", filepath.Join(env.WorkDir, ".caddy"))
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".caddy"))
	return nil
}

// arguments checks how a command of a script is called.
func arguments(ts *testscript.TestScript, neg bool, args []string, least, most int, usage string) {
	if neg || len(args) < least || most > 0 && len(args) > most {
		ts.Fatalf("expected: %s", usage)
	}
}

// run starts a program in the background. It is interrupted at the end of the script.
func run(ts *testscript.TestScript, args []string) *caddytest.Program {
	w := worldOf(ts)
	names := []string{"SERVICE", "SILENT", "NONE", "LOG", "LOCK", "OTHER", "THIRD", "ADMIN", "WORK", "HOME", "STATUS", "METRICS", "BUSY_PORT",
		"CADDY_ADMIN", "XDG_DATA_HOME", "XDG_CONFIG_HOME"}
	for _, port := range free {
		names = append(names, "P"+port)
	}
	var env []string
	for _, name := range names {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	p := caddytest.Start(w.t, env, args[0], args[1:]...)
	ts.Defer(func() { p.Stop(w.t) })
	return p
}

// start <Caddyfile>: starts Caddy with a file of the script, and waits until it serves.
func start(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 1, "start <Caddyfile>")
	run(ts, []string{"caddy", "run", "--adapter", "caddyfile", "--config", ts.MkAbs(args[0])}).
		Prints(worldOf(ts).t, "serving initial configuration")
}

// client <name> [<address>]: connects to $LOCK, or to the address, and stays. It waits until the lock
// lists the client. Then the variable <name> has the client's address.
func client(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 2, "client <name> [<address>]")
	address := ts.Getenv("LOCK")
	if len(args) > 1 {
		address = args[1]
	}
	conn, err := net.Dial("tcp", address)
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	worldOf(ts).clients[args[0]] = conn
	ts.Setenv(args[0], conn.LocalAddr().String())
	listed(ts, conn, true)
}

// leave <name>: closes the connection of a client, and waits until the lock no longer lists it.
func leave(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 1, "leave <name>")
	conn := clientOf(ts, args[0])
	ts.Check(conn.Close())
	listed(ts, conn, false)
}

// cut <name>: waits until the other side has closed the connection of a client.
func cut(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 1, "cut <name>")
	conn := clientOf(ts, args[0])
	_ = conn.SetReadDeadline(time.Now().Add(caddytest.Patience))
	_, err := io.Copy(io.Discard, conn)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		ts.Fatalf("%s is still connected", args[0])
	}
}

// finishes <name>: a client closes its sending side, and stays.
func finishes(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 1, "finishes <name>")
	ts.Check(clientOf(ts, args[0]).(*net.TCPConn).CloseWrite())
}

// refused [<address>]: connects to $LOCK, or to the address, and waits until the other side closes the
// connection.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 0, 1, "refused [<address>]")
	conn, err := net.Dial("tcp", append(args, ts.Getenv("LOCK"))[0])
	ts.Check(err)
	worldOf(ts).clients["refused"] = conn
	cut(ts, false, []string{"refused"})
	ts.Check(conn.Close())
}

func clientOf(ts *testscript.TestScript, name string) net.Conn {
	conn := worldOf(ts).clients[name]
	if conn == nil {
		ts.Fatalf("found no client %s", name)
	}
	return conn
}

// listed waits until a lock lists a client, or no lock does.
func listed(ts *testscript.TestScript, conn net.Conn, want bool) {
	w, address := worldOf(ts), conn.LocalAddr().String()
	caddytest.Eventually(w.t, fmt.Sprintf("a lock lists the client %s: %t", address, want), func() bool {
		found := false
		all := caddytest.Asks[struct{ Locks []status.Lock }](w.t, caddytest.Admin{Addr: ts.Getenv("ADMIN")}, "GET", "/tcplock/locks")
		for _, l := range all.Locks {
			for _, c := range append(l.Holders, l.Waiters...) {
				found = found || c.Client == address
			}
		}
		return found == want
	})
}

// eventually <pattern> <command...>: repeats a command until its stdout matches the pattern.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 0, "eventually <pattern> <command...>")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(caddytest.Patience); ; time.Sleep(10 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("found no %q, error %v", args[0], err)
		}
	}
}

// exits <code> <command...>: runs a command, which must end with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 0, "exits <code> <command...>")
	expectCode(ts, args[0], ts.Exec(args[1], args[2:]...))
}

// later <name> <command...>: starts a command in the background.
func later(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 0, "later <name> <command...>")
	worldOf(ts).started[args[0]] = run(ts, args[1:])
}

// ends <name> <code>: waits for the end of a command that runs in the background, which must have
// this exit code. All that it has printed is stdout then.
func ends(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 2, "ends <name> <code>")
	w := worldOf(ts)
	out, err := programOf(ts, args[0]).Result(w.t)
	_, _ = io.WriteString(ts.Stdout(), out)
	expectCode(ts, args[1], err)
}

func expectCode(ts *testscript.TestScript, want string, err error) {
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("found exit code %d, expected %s", code, want)
	}
}
