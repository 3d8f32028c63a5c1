package tcplock_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// needs skips the test on a machine that lacks a program, unless all have to be there.
func needs(t *testing.T, what string, found bool) {
	t.Helper()
	switch {
	case found:
	case os.Getenv("TCPLOCK_REQUIRE_SERVICES") == "1":
		t.Fatalf("found no %s, expected it: TCPLOCK_REQUIRE_SERVICES is 1", what)
	default:
		t.Skipf("needs %s", what)
	}
}

// findProgram returns the path of a program.
func findProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	needs(t, name, err == nil)
	return path
}

// longest is how long a program may take that is to end by itself.
const longest = 3 * time.Minute

// program is a running program.
type program struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	typing sync.WaitGroup // what somebody still writes to it
	out    output         // what it has printed so far
	ended  chan struct{}
	err    error // how it ended
}

// output is what a program has printed, to either stream.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs a program with these variables besides the environment. It is stopped when
// the test ends, if it has not ended before.
func start(t *testing.T, env []string, name string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(name, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("%s %s: %v\n%s", name, strings.Join(args, " "), p.err, p.out.String())
		}
	})
	return p
}

// types is what the user does.
func (p *program) types(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, text); err != nil {
		t.Fatal(err)
	}
}

// prints waits until the program has printed want.
func (p *program) prints(t *testing.T, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s prints %q", p.cmd.Path, want), func() bool {
		return strings.Contains(p.out.String(), want)
	})
}

// result waits for the program's end and returns what it has printed.
func (p *program) result(t *testing.T) (string, error) {
	t.Helper()
	p.typing.Wait()
	p.stdin.Close()
	select {
	case <-p.ended:
	case <-time.After(longest):
		t.Fatalf("%s has not ended after %s", p.cmd.Path, longest)
	}
	return p.out.String(), p.err
}

// interrupt is Ctrl-C.
func (p *program) interrupt() {
	if runtime.GOOS == "windows" { // has no interrupt to send
		_ = p.cmd.Process.Kill()
		return
	}
	_ = p.cmd.Process.Signal(os.Interrupt)
}

// stop interrupts the program and waits for its end.
func (p *program) stop(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		return
	default:
	}
	p.interrupt()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Errorf("%s does not end after an interrupt", p.cmd.Path)
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}
