//go:build unix

package exec

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// What reaches a command, and what it can do: the attacks of docs/security.md that no other
// file has.

// The value of a variable that a config puts into an argument is text: what looks like a placeholder in
// it stays as it is, and the argument stays one argument.
func TestPlaceholderValueIsText(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_SECRET", "secret")
	t.Setenv("TCPLOCK_TEST_VALUE", "{env.TCPLOCK_TEST_SECRET} {l4.tcplock.name}\n--option")
	logs := runExec(t, &Step{
		Command: "sh", Args: []string{"-c", `printf '<%s>' "$#" "$1" "$VALUE"`, "sh", "{env.TCPLOCK_TEST_VALUE}"},
		Env: map[string]string{"VALUE": "{env.TCPLOCK_TEST_VALUE}"},
	})
	value := "<" + os.Getenv("TCPLOCK_TEST_VALUE") + ">"
	if got, want := ended(t, logs)["output"], "<1>"+value+value; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
}

// A command has no descriptor of Caddy's, such as a client's connection, but its own
// output, and no input.
func TestCommandInheritsNoDescriptor(t *testing.T) {
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
	logs := runExec(t, &Step{Command: "sh", Args: []string{"-c", list}})
	if got := strings.TrimPrefix(ended(t, logs)["output"].(string), "0 "); got != "1 2 no input" {
		t.Errorf("found %q open, expected the output only", got)
	}
}

// What a command prints is text in the log, in one line, in both of Caddy's formats: nothing in it
// reaches a terminal that the log is shown in.
func TestCommandCannotPaint(t *testing.T) {
	testkit.WantTextOnly(t, func(t *testing.T, script string, logger *zap.Logger) {
		step := &Step{Command: "sh", Args: []string{"-c", script}}
		if err := step.provision(logger); err != nil {
			t.Fatal(err)
		}
		if err := step.Run(t.Context(), someMoment); err != nil {
			t.Fatal(err)
		}
	})
}

// This is not a test, but the Caddy of the next test: it runs the command of a hook, and waits to be
// killed.
func TestCommandParent(t *testing.T) {
	pid := os.Getenv("TCPLOCK_TEST_COMMAND")
	if pid == "" {
		return
	}
	step := &Step{Command: "/bin/sh", Args: []string{"-c", `echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 1000`, "sh", pid}}
	_ = step.provision(zap.NewNop())
	_ = step.Run(t.Context(), someMoment)
}

// When Caddy is killed, the command of a hook goes on: half of a restart is worse than a
// whole one.
func TestCommandOutlivesKilledCaddy(t *testing.T) {
	file := testkit.File(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestCommandParent$")
	cmd.Env = append(os.Environ(), "TCPLOCK_TEST_COMMAND="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := testkit.PIDs(t, testkit.ReadSoon(t, file), 1)[0]
	defer syscall.Kill(pid, syscall.SIGKILL)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !testkit.Alive(pid) {
		t.Error("found the command dead, expected it to go on")
	}
}

// A command has all of Caddy's environment, secrets too; an empty value takes a variable away from
// it. What a command is given is not in the log.
func TestEnvironmentReachesCommands(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_TOKEN", "secret")
	const show = `test "$1" = secret || exit 9; test "$TCPLOCK_TEST_TOKEN" = secret && echo has it`
	for value, want := range map[string]string{"{env.TCPLOCK_TEST_TOKEN}": "has it", "": ""} {
		env := map[string]string{"TCPLOCK_TEST_TOKEN": value}
		logs := runExec(t, &Step{Command: "sh", Args: []string{"-c", show + "; true", "sh", "{env.TCPLOCK_TEST_TOKEN}"}, Env: env})
		if got := strings.TrimSpace(ended(t, logs)["output"].(string)); got != want {
			t.Errorf("value %q: found %q, expected %q", value, got, want)
		}
		for _, entry := range logs.All() {
			if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "secret") {
				t.Errorf("found %s in the log, expected no argument", text)
			}
		}
	}
}

// What systemd has told Caddy alone reaches no command: with it a command could speak for Caddy, or
// take a descriptor of its own for one of Caddy's sockets. What the config sets counts.
func TestCommandKnowsNoServiceManager(t *testing.T) {
	testkit.WantServiceManagerHidden(t, func(script string, env map[string]string) {
		runExec(t, &Step{Command: "sh", Args: []string{"-c", script}, Env: env})
	})
	testkit.WantServiceManagerHidden(t, func(script string, env map[string]string) {
		runExec(t, &Step{Command: "sh", Args: []string{"-c", script}, Env: env, Detach: true})
	})
}
