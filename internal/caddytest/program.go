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

// StartCaddy starts the program with a Caddyfile, and waits until it serves. It may open at most so
// many descriptors, unless that is 0. Caddy keeps its files in the directory of the test.
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

// Lives checks that the program still runs, and that it ends without an error after an interrupt.
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

// StartCommand starts "caddy tcplock" with these arguments. Caddy keeps its files in the directory of
// the test.
func StartCommand(t *testing.T, args ...string) *Program {
	t.Helper()
	dir := t.TempDir()
	return Start(t, []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, Caddy(t), append([]string{"tcplock"}, args...)...)
}

// Listens waits until the program accepts connections at addr.
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

// PortOf returns the port of an address.
func PortOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Command starts "caddy tcplock" with these arguments and this admin API.
func (a Admin) Command(t *testing.T, args ...string) *Program {
	t.Helper()
	return StartCommand(t, append(args, "--address", a.Addr)...)
}

// Exits runs such a command and checks its end as the function Exits does.
func (a Admin) Exits(t *testing.T, code int, want string, args ...string) (out string) {
	t.Helper()
	return Exits(t, a.Command(t, args...), code, want)
}

// Exits waits for the end of a program. It checks the exit code, and that the output matches want, a
// regular expression. It returns the output.
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

// WhySockets starts a service for each reason of a refusal, which answers with the reason. It returns
// the refuse handlers for these services.
func WhySockets(t *testing.T) (handlers string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "why") // the path of a socket must be short
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
				// Unread data of the client would make the close a reset.
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

// EndsWithin checks that the program ends without an error in that time.
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

// Prompt is how long something may take that should happen at once.
const Prompt = 5 * time.Second

// Needs skips the test if a program was not found. If TCPLOCK_REQUIRE_SERVICES is 1, the test fails
// instead.
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

// FindProgram returns the path of a program that the test needs.
func FindProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	Needs(t, name, err == nil)
	return path
}

// Longest is how long a program may take to end by itself.
const Longest = 3 * time.Minute

// Program is a running program.
type Program struct {
	Cmd    *exec.Cmd
	Stdin  io.WriteCloser
	Typing sync.WaitGroup // goroutines of the test that still write to Stdin
	Out    Output         // what the program has printed so far
	Ended  chan struct{}  // closed when the program has ended
	err    error          // how it ended
}

// Output collects what a program prints, on stdout and stderr.
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

// Start starts a program with these variables added to the environment. At the end of the test the
// program is stopped, if it still runs.
func Start(t *testing.T, env []string, name string, args ...string) *Program {
	t.Helper()
	return StartWith(t, nil, env, name, args...)
}

// StartWith is like Start, and passes files to the program as its descriptors 3, 4 and so on.
func StartWith(t *testing.T, files []*os.File, env []string, name string, args ...string) *Program {
	t.Helper()
	p := &Program{Cmd: exec.Command(name, args...), Ended: make(chan struct{})}
	p.Cmd.ExtraFiles = files
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

// Types writes text to the program, as a user does.
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

// Result waits for the end of the program. It returns the output, and how the program ended.
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

// Interrupt does what Ctrl-C does.
func (p *Program) Interrupt() {
	if runtime.GOOS == "windows" { // cannot send an interrupt
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
