//go:build unix

package service

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// What reaches the process of a service, and what it can do: the attacks of docs/security.md that
// no other file has.

// A process has no descriptor of Caddy's, such as a client's connection, but its own
// output, and no input.
func TestProcessInheritsNoDescriptor(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The shell looks itself: a command that it starts would have descriptors of its own.
	const list = `for fd in 0 1 2 3 4 5 6 7 8 9; do if (: >&$fd) 2>/dev/null; then printf "$fd "; fi; done; read line || printf "no input"`
	p, output := startReal(t, shell(list))
	wantExit(t, p)
	p.Release()
	if got := lines(output); len(got) != 1 || strings.TrimPrefix(got[0], "0 ") != "1 2 no input" {
		t.Errorf("found %q open, expected the output only", got)
	}
}

// What a process prints is text in the log, in one line, in both of Caddy's formats: nothing in it
// reaches a terminal that the log is shown in.
func TestProcessCannotPaint(t *testing.T) {
	testkit.WantTextOnly(t, func(t *testing.T, script string, logger *zap.Logger) {
		p, err := startProcess(shell(script), someProcess, func() *zap.Logger { return logger })
		if err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		p.Release()
	})
}

// A process has all of Caddy's environment, secrets too; an empty value takes a variable away from
// it.
func TestEnvironmentReachesProcesses(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_TOKEN", "secret")
	const show = `test "$1" = secret || exit 9; test "$TCPLOCK_TEST_TOKEN" = secret && echo has it`
	for value, want := range map[string]string{"{env.TCPLOCK_TEST_TOKEN}": "has it", "": ""} {
		s := shell(show, "secret")
		s.Env = map[string]string{"TCPLOCK_TEST_TOKEN": value}
		p, output := startReal(t, s)
		wantExit(t, p)
		p.Release()
		if got := strings.Join(lines(output), ""); got != want {
			t.Errorf("value %q: found %q, expected %q", value, got, want)
		}
	}
}

// What systemd has told Caddy alone reaches neither a process nor its ready command nor its guard:
// with it they could speak for Caddy, or take a descriptor of their own for one of Caddy's sockets.
// What the config sets counts.
func TestProcessKnowsNoServiceManager(t *testing.T) {
	testkit.WantServiceManagerHidden(t, func(script string, env map[string]string) {
		startReal(t, &Service{Command: "sh", Args: []string{"-c", script}, Env: env})
	})
	testkit.WantServiceManagerHidden(t, func(script string, env map[string]string) {
		p, _ := startReal(t, &Service{Command: "sleep", Args: []string{"1000"}, Env: env, ReadyCommand: []string{"sh", "-c", script}})
		if err := p.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		guard := guardOf(t, os.Getpid(), p.PID())
		if guard == 0 {
			t.Fatal("found no guard")
		}
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", guard)); err == nil && strings.Contains(string(text), "secret of Caddy") {
			t.Error("found what is Caddy's alone in the environment of a guard")
		}
	})
}
