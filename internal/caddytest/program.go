package caddytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// StartCaddy runs the program with a Caddyfile, and with at most that many descriptors if
// not 0. What files Caddy keeps, it keeps in the test's directory.
func StartCaddy(t *testing.T, descriptors int, caddyfile string) *Program {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	name, args := Caddy(t), []string{"run", "--config", file}
	if descriptors > 0 {
		// Both limits, since Go raises the soft one to the hard one.
		script := `ulimit -n "$0" && exec "$@"`
		name, args = "sh", append([]string{"-c", script, strconv.Itoa(descriptors), name}, args...)
	}
	p := Start(t, env, name, args...)
	p.Prints(t, "serving initial configuration")
	return p
}

// Lives makes sure that the program still runs, and that it ends well.
func (p *Program) Lives(t *testing.T) {
	t.Helper()
	select {
	case <-p.Ended:
		t.Fatalf("the program has ended: %v", p.err)
	default:
	}
	p.Stop(t)
	if p.err != nil {
		t.Errorf("after an interrupt: %v, expected success", p.err)
	}
}

// StartCommand runs "caddy tcplock" with these arguments. What files Caddy keeps, it
// keeps in the test's directory.
func StartCommand(t *testing.T, args ...string) *Program {
	t.Helper()
	dir := t.TempDir()
	return Start(t, []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, Caddy(t), append([]string{"tcplock"}, args...)...)
}

// Listens waits until the program accepts connections there.
func (p *Program) Listens(t *testing.T, addr string) {
	t.Helper()
	Eventually(t, p.Cmd.Path+" listens on "+addr, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// PortOf is the port of an address.
func PortOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Command starts "caddy tcplock" with these arguments against it.
func (a Admin) Command(t *testing.T, args ...string) *Program {
	t.Helper()
	return StartCommand(t, append(args, "--address", a.Addr)...)
}

// Exits is Exits for such a command.
func (a Admin) Exits(t *testing.T, code int, want string, args ...string) (out string) {
	t.Helper()
	return Exits(t, a.Command(t, args...), code, want)
}

// Exits waits for the end of a program and checks the exit code, and that it has printed this.
func Exits(t *testing.T, p *Program, code int, want string) (out string) {
	t.Helper()
	out, err := p.Result(t)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("%v: found exit code %d, expected %d and %q in:\n%s", p.Cmd.Args[1:], got, code, want, out)
	}
	return out
}

// WhySockets are services, one for each reason to be refused, that answer with it. It
// returns the handlers that lead there.
func WhySockets(t *testing.T) (handlers string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "why") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, reason := range []string{"refused_full", "wait_timeout", "hook_failed", "shutdown"} {
		ln, err := net.Listen("unix", filepath.Join(dir, reason))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for conn, err := ln.Accept(); err == nil; conn, err = ln.Accept() {
				// What the client has sent must not be left in the socket: it would be reset.
				_, _ = io.WriteString(conn, reason)
				_ = conn.(*net.UnixConn).CloseWrite()
				_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
		}()
	}
	return "proxy unix/" + dir + "/{l4.tcplock.reason}"
}

// Terminate asks the program to end.
func (p *Program) Terminate(t *testing.T) {
	t.Helper()
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// EndsWithin makes sure that the program ends well in that time.
func (p *Program) EndsWithin(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-p.Ended:
		if p.err != nil {
			t.Errorf("after SIGTERM: %v, expected success", p.err)
		}
	case <-time.After(d):
		t.Fatalf("the program has not ended %s after SIGTERM", d)
	}
}

// Prompt is how long something may take that is to be done at once.
const Prompt = 5 * time.Second

// Needs skips the test on a machine that lacks a program, unless all have to be there.
func Needs(t *testing.T, what string, found bool) {
	t.Helper()
	switch {
	case found:
	case os.Getenv("TCPLOCK_REQUIRE_SERVICES") == "1":
		t.Fatalf("found no %s, expected it: TCPLOCK_REQUIRE_SERVICES is 1", what)
	default:
		t.Skipf("needs %s", what)
	}
}

// FindProgram returns the path of a program.
func FindProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	Needs(t, name, err == nil)
	return path
}

// Longest is how long a program may take that is to end by itself.
const Longest = 3 * time.Minute

// Program is a running program.
type Program struct {
	Cmd    *exec.Cmd
	Stdin  io.WriteCloser
	Typing sync.WaitGroup // what a test still writes to it
	Out    Output         // what it has printed so far
	Ended  chan struct{}
	err    error // how it ended
}

// Output is what a program has printed, to either stream.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Start runs a program with these variables besides the environment. It is stopped when
// the test ends, if it has not ended before.
func Start(t *testing.T, env []string, name string, args ...string) *Program {
	t.Helper()
	p := &Program{Cmd: exec.Command(name, args...), Ended: make(chan struct{})}
	p.Cmd.Env = append(os.Environ(), env...)
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Out, &p.Out
	var err error
	if p.Stdin, err = p.Cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.Ended)
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("%s %s: %v\n%s", name, strings.Join(args, " "), p.err, p.Out.String())
		}
	})
	return p
}

// Types is what the user does.
func (p *Program) Types(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(p.Stdin, text); err != nil {
		t.Fatal(err)
	}
}

// Prints waits until the program has printed want.
func (p *Program) Prints(t *testing.T, want string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%s prints %q", p.Cmd.Path, want), func() bool {
		return strings.Contains(p.Out.String(), want)
	})
}

// Result waits for the program's end and returns what it has printed.
func (p *Program) Result(t *testing.T) (string, error) {
	t.Helper()
	p.Typing.Wait()
	p.Stdin.Close()
	select {
	case <-p.Ended:
	case <-time.After(Longest):
		t.Fatalf("%s has not ended after %s", p.Cmd.Path, Longest)
	}
	return p.Out.String(), p.err
}

// Interrupt is Ctrl-C.
func (p *Program) Interrupt() {
	if runtime.GOOS == "windows" { // has no interrupt to send
		_ = p.Cmd.Process.Kill()
		return
	}
	_ = p.Cmd.Process.Signal(os.Interrupt)
}

// Stop interrupts the program and waits for its end.
func (p *Program) Stop(t *testing.T) {
	t.Helper()
	select {
	case <-p.Ended:
		return
	default:
	}
	p.Interrupt()
	select {
	case <-p.Ended:
	case <-time.After(Patience):
		t.Errorf("%s does not end after an interrupt", p.Cmd.Path)
		_ = p.Cmd.Process.Kill()
		<-p.Ended
	}
}
