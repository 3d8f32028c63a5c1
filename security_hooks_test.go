//go:build unix

package tcplock

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// What reaches commands and processes, and what they can do: the attacks of
// docs/security.md that no other file has.

// Whoever controls the value of a variable that a config puts into an argument controls that
// argument: what looks like a placeholder in it is text, and it stays one argument.
func TestPlaceholderValueIsText(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_SECRET", "secret")
	t.Setenv("TCPLOCK_TEST_VALUE", "{env.TCPLOCK_TEST_SECRET} {l4.tcplock.name}\n--option")
	logs := runExec(t, &ExecStep{
		Command: "sh", Args: []string{"-c", `printf '<%s>' "$#" "$1" "$VALUE"`, "sh", "{env.TCPLOCK_TEST_VALUE}"},
		Env: map[string]string{"VALUE": "{env.TCPLOCK_TEST_VALUE}"},
	})
	value := "<" + os.Getenv("TCPLOCK_TEST_VALUE") + ">"
	if got, want := ended(t, logs)["output"], "<1>"+value+value; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
}

// A command has no descriptor of Caddy's, such as a client's connection, but its own
// output, and no input. Nor has the process of a service.
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
	// The shell looks by itself; a command in it would have descriptors of its own.
	const list = `for fd in 0 1 2 3 4 5 6 7 8 9; do if (: >&$fd) 2>/dev/null; then printf "$fd "; fi; done; read line || printf "no input"`
	const want = "1 2 no input"
	logs := runExec(t, &ExecStep{Command: "sh", Args: []string{"-c", list}})
	if got := strings.TrimPrefix(ended(t, logs)["output"].(string), "0 "); got != want {
		t.Errorf("found %q open in a hook's command, expected %q", got, want)
	}
	p, output := startReal(t, shell(list))
	wantExit(t, p)
	p.release()
	if got := lines(output); len(got) != 1 || strings.TrimPrefix(got[0], "0 ") != want {
		t.Errorf("found %q open in a process, expected %q", got, want)
	}
}

// hostile is output that would paint, move the cursor, set the title, or write lines of
// its own, if the log let it.
const hostile = "\x1b[2J\x1b]0;title\x07\x7f\u009b31m\u202e\r{\"level\":\"error\"}\xff\xfe END."

// What a command or a process prints is text in the log, in one line, in both of Caddy's
// formats: nothing in it reaches a terminal that the log is shown in.
func TestOutputCannotPaint(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_HOSTILE", hostile)
	const script = `printf '%s\n' "$TCPLOCK_TEST_HOSTILE"`
	for name, encoder := range map[string]zapcore.Encoder{
		"json":    zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		"console": zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			logger := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&log), zap.InfoLevel))
			step := &ExecStep{Command: "sh", Args: []string{"-c", script}}
			if err := step.provision(logger); err != nil {
				t.Fatal(err)
			}
			if err := step.Run(t.Context(), someMoment); err != nil {
				t.Fatal(err)
			}
			p, err := startProcess(shell(script), someProcess, func() *zap.Logger { return logger })
			if err != nil {
				t.Fatal(err)
			}
			<-p.exited()
			p.release()
			text := log.String()
			if strings.Count(text, "\n") != 2 || strings.Count(text, " END.") != 2 {
				t.Errorf("found %q, expected two lines", text)
			}
			if i := strings.IndexFunc(text, func(r rune) bool {
				return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r)
			}); i >= 0 || !utf8.ValidString(text) {
				t.Errorf("found %q, expected nothing but text", text)
			}
		})
	}
}

// Not a test, but the Caddy of the next one: it runs a hook's command, and waits to be
// killed.
func TestCommandParent(t *testing.T) {
	pid := os.Getenv("TCPLOCK_TEST_COMMAND")
	if pid == "" {
		return
	}
	step := &ExecStep{Command: "/bin/sh", Args: []string{"-c", `echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 1000`, "sh", pid}}
	_ = step.provision(zap.NewNop())
	_ = step.Run(t.Context(), someMoment)
}

// When Caddy is killed, the command of a hook goes on: half of a restart is worse than a
// whole one.
func TestCommandOutlivesKilledCaddy(t *testing.T) {
	file := file(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestCommandParent$")
	cmd.Env = append(os.Environ(), "TCPLOCK_TEST_COMMAND="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidsIn(t, readSoon(t, file), 1)[0]
	defer syscall.Kill(pid, syscall.SIGKILL)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !alive(pid) {
		t.Error("found the command dead, expected it to go on")
	}
}

// Commands and processes have all of Caddy's environment, secrets too; an empty value takes a
// variable away from one. What a command is given is not in the log.
func TestEnvironmentReachesCommands(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_TOKEN", "secret")
	const show = `test "$1" = secret || exit 9; test "$TCPLOCK_TEST_TOKEN" = secret && echo has it`
	for value, want := range map[string]string{"{env.TCPLOCK_TEST_TOKEN}": "has it", "": ""} {
		env := map[string]string{"TCPLOCK_TEST_TOKEN": value}
		logs := runExec(t, &ExecStep{Command: "sh", Args: []string{"-c", show + "; true", "sh", "{env.TCPLOCK_TEST_TOKEN}"}, Env: env})
		if got := strings.TrimSpace(ended(t, logs)["output"].(string)); got != want {
			t.Errorf("value %q: found %q of a hook's command, expected %q", value, got, want)
		}
		for _, entry := range logs.All() {
			if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "secret") {
				t.Errorf("found %s in the log, expected no argument", text)
			}
		}
		s := shell(show, "secret")
		s.Env = env
		p, output := startReal(t, s)
		wantExit(t, p)
		p.release()
		if got := strings.Join(lines(output), ""); got != want {
			t.Errorf("value %q: found %q of a process, expected %q", value, got, want)
		}
	}
}

// What systemd has told Caddy alone reaches no process that Caddy starts: with it a child
// could speak for Caddy, or take a descriptor of its own for one of Caddy's sockets. What the
// config sets counts.
func TestServiceManagerIsCaddysAlone(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		t.Setenv(name, "secret of Caddy")
	}
	t.Setenv("TCPLOCK_TEST_KEPT", "kept")
	const want = "LISTEN_FDS=2 TCPLOCK_TEST_KEPT=kept "
	const show = `env | sort | grep -e NOTIFY -e WATCHDOG -e LISTEN -e KEPT | tr '\n' ' ' >"$1.new"; mv "$1.new" "$1"`
	env := map[string]string{"LISTEN_FDS": "2"}
	files := map[string]string{"hook": file(t), "detached": file(t), "service": file(t), "ready": file(t)}
	args := func(of, then string) []string { return []string{"-c", show + then, "sh", files[of]} }

	runExec(t, &ExecStep{Command: "sh", Args: args("hook", ""), Env: env})
	runExec(t, &ExecStep{Command: "sh", Args: args("detached", ""), Env: env, Detach: true})
	p, _ := startReal(t, &Service{Command: "sh", Args: args("service", "; exec sleep 1000"), Env: env, ReadyCommand: append([]string{"sh"}, args("ready", "")...)})
	if err := p.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for of, file := range files {
		if got := readSoon(t, file); got != want {
			t.Errorf("%s: found %q, expected %q", of, got, want)
		}
	}
	guard := guardOf(t, os.Getpid(), p.pid())
	if guard == 0 {
		t.Fatal("found no guard")
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", guard)); err == nil && strings.Contains(string(text), "secret of Caddy") {
		t.Error("found what is Caddy's alone in the environment of a guard")
	}
}
