//go:build unix

package exec

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

var someMoment = hook.Moment{
	On:         hook.Release,
	Lock:       "soffice",
	Slot:       2,
	Worker:     "localhost:8102",
	Connection: 41,
	Client:     "192.0.2.1:5000",
	Waited:     1500 * time.Millisecond,
	Reason:     "the service has closed",
}

// A step in a Caddyfile gives the same JSON as one written by hand. Values that it cannot use, such as a
// placeholder for what a client has sent, are refused in both.
func TestExecConfig(t *testing.T) {
	testkit.WantSteps(t, map[string]string{
		"exec systemctl restart soffice": `{"command":"systemctl","args":["restart","soffice"]}`,
		`exec sh -c "a b; c" {
			timeout 20s
			dir /srv
			env A 1
			env B {l4.tcplock.slot}
		}`: `{"command":"sh","args":["-c","a b; c"],"timeout":20000000000,"dir":"/srv","env":{"A":"1","B":"{l4.tcplock.slot}"}}`,
		"exec soffice {\n detach\n}":              `{"command":"soffice","detach":true}`,
		"exec":                                    "exec: found 0 arguments, expected a command and its arguments, at Testfile:1",
		`exec ""`:                                 "command: found none, expected a name or a path, at Testfile:1",
		"exec {l4.tcplock.worker}":                `command: found "{l4.tcplock.worker}", expected a name or a path without placeholders, at Testfile:1`,
		"exec a {l4.tls.server_name}":             `args: found "{l4.tls.server_name}": unrecognized placeholder {l4.tls.server_name}, expected {l4.tcplock.client|connection|moment|name|reason|slot|waited|worker|worker_host|worker_port} or a global one such as {env.*} (a plain brace is \{), at Testfile:1`,
		"exec a {\n dir {env.HOME}\n}":            `dir: found "{env.HOME}", expected a path without placeholders, at Testfile:2`,
		"exec a {\n env A\n}":                     "env: found 1 argument, expected 2, at Testfile:2",
		"exec a {\n env A 1\n env A 2\n}":         "env: found A a second time, expected once, at Testfile:3",
		"exec a {\n env A=B 1\n}":                 `env: found name "A=B", expected one without = and placeholders, at Testfile:2`,
		"exec a {\n env A {http.request.host}\n}": `env: A: found "{http.request.host}": unrecognized placeholder {http.request.host}, expected {l4.tcplock.client|connection|moment|name|reason|slot|waited|worker|worker_host|worker_port} or a global one such as {env.*} (a plain brace is \{), at Testfile:2`,
		"exec a {\n timeout -1s\n}":               "timeout: found -1s, expected a duration of 0 (the default) or more, at Testfile:2",
		"exec a {\n detach\n timeout 1s\n}":       "timeout: found 1s with detach, expected only one of them: a detached command is not waited for, at Testfile:3",
		"exec a {\n shell\n}":                     `found option "shell", expected one of detach, dir, env, timeout, at Testfile:2`,
	})
	testkit.WantJSONRefused(t, "layer4.tcplock.hooks.exec", map[string]string{
		`{"args":["a"]}`: "command: found none",
		`{"command":"a","args":["{l4.conn.remote_addr}"]}`: "unrecognized placeholder {l4.conn.remote_addr}",
		`{"command":"a","timeout":"-1s"}`:                  "timeout: found -1s",
		`{"command":"a","timeout":"1s","detach":true}`:     "found 1s with detach",
	})
}

// A command that is not there is worth a warning when the config is loaded, and an
// error when it is to run.
func TestExecNotFound(t *testing.T) {
	for _, s := range []*Step{
		{Command: "no-such-command-here"},
		{Command: "/no/such/command"},
		{Command: "./no-such-command", Dir: t.TempDir()},
		{Command: "./true"}, // the one in PATH is another one
	} {
		logs := provisionExec(t, s)
		if n := logs.FilterMessageSnippet("not found").FilterField(zap.String("command", s.Command)).Len(); n != 1 {
			t.Errorf("%s: found %d warnings, expected 1", s.Command, n)
		}
		err := s.Run(t.Context(), someMoment)
		if err == nil || !strings.HasPrefix(err.Error(), "exec "+s.Command+": ") || !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "not found") {
			t.Errorf("%s: found %v, expected not found", s.Command, err)
		}
	}
	s := &Step{Command: "true", Dir: "/no/such/directory"}
	provisionExec(t, s)
	err := s.Run(t.Context(), someMoment)
	if want := "exec true: dir: found no directory /no/such/directory"; err == nil || err.Error() != want {
		t.Errorf("found %v, expected %s", err, want)
	}
}

// A relative path starts from dir, when it is looked for as well as when it is run.
func TestExecDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "where"), []byte("#!/bin/sh\npwd -P\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	logs := runExec(t, &Step{Command: "./where", Dir: dir})
	if n := logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 0 {
		t.Errorf("found %d warnings, expected 0", n)
	}
	want, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(ended(t, logs)["output"].(string)); got != want {
		t.Errorf("found %s, expected %s", got, want)
	}
}

// An argument is one argument, whatever is in it, also after a placeholder; no shell
// looks at it.
func TestExecArguments(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_TEXT", `two words; $(false) "`)
	logs := runExec(t, &Step{Command: "printf", Args: []string{
		`<%s>`, `a b`, `"'`, `; false`, "$(false)`false`", "*", "", "x\ny", `\{}`,
		"{env.TCPLOCK_TEST_TEXT}", "{l4.tcplock.reason}-{l4.tcplock.slot}",
	}})
	want := `<a b><"'><; false><$(false)` + "`false`" + `><*><><x` + "\n" + `y><{}>` +
		`<two words; $(false) "><the service has closed-2>`
	if got := ended(t, logs)["output"]; got != want {
		t.Errorf("found %s\nexpected %s", got, want)
	}
}

// A command sees Caddy's environment, the moment, and what the config adds, which wins.
func TestExecEnvironment(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_INHERITED", "yes")
	logs := runExec(t, &Step{
		Command: "env",
		Env:     map[string]string{"DISPLAY_OF": "{l4.tcplock.name}:{l4.tcplock.slot}", "TCPLOCK_REASON": "mine"},
	})
	got := strings.Split(ended(t, logs)["output"].(string), "\n")
	for _, want := range []string{
		"TCPLOCK_TEST_INHERITED=yes",
		"TCPLOCK_MOMENT=release",
		"TCPLOCK_NAME=soffice",
		"TCPLOCK_SLOT=2",
		"TCPLOCK_WORKER=localhost:8102",
		"TCPLOCK_WORKER_HOST=localhost",
		"TCPLOCK_WORKER_PORT=8102",
		"TCPLOCK_CONNECTION=41",
		"TCPLOCK_CLIENT=192.0.2.1:5000",
		"TCPLOCK_WAITED=1.5s",
		"TCPLOCK_REASON=mine",
		"DISPLAY_OF=soffice:2",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("found no %s in %s", want, got)
		}
	}
}

// A command that hangs is killed at its timeout, with the child it has forked.
func TestExecTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := &Step{Command: "sh", Args: []string{"-c", "sleep 1000 & echo $$ $!; wait"}, Timeout: caddy.Duration(2 * time.Second)}
	logs := provisionExec(t, s)
	err := s.Run(t.Context(), someMoment)
	if err == nil || !strings.HasPrefix(err.Error(), "exec sh: not done after its timeout of 2s, killed") {
		t.Errorf("found %v, expected a timeout", err)
	}
	got := ended(t, logs)
	if got["exit_code"] != int64(-1) {
		t.Errorf("exit code: found %v, expected -1", got["exit_code"])
	}
	testkit.WantDead(t, got["output"].(string), 2)
}

// A hook that has to end ends its command too.
func TestExecCancelled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pids")
	s := &Step{Command: "sh", Args: []string{"-c", `sleep 1000 & echo $$ $! > "$1.new"; mv "$1.new" "$1"; wait`, "", file}}
	logs := provisionExec(t, s)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, someMoment) }()
	pids := testkit.ReadSoon(t, file)
	shutdown := errors.New("shutting down")
	cancel(shutdown)
	if err := <-done; !errors.Is(err, shutdown) {
		t.Errorf("found %v, expected %v", err, shutdown)
	}
	testkit.WantDead(t, pids, 2)

	if err := s.Run(ctx, someMoment); !errors.Is(err, shutdown) {
		t.Errorf("found %v, expected %v", err, shutdown)
	}
	if n := logs.FilterMessage("command ended").Len(); n != 1 {
		t.Errorf("found %d runs, expected that none starts when the hook is to end", n)
	}
}

// The step does not wait for a detached command. Such a command does not end with its hook, its output
// is thrown away, and it leaves no zombie.
func TestExecDetach(t *testing.T) {
	dir := t.TempDir()
	s := &Step{Command: "sh", Dir: dir, Detach: true, Args: []string{"-c",
		"head -c 1000000 /dev/zero && echo $$ > pid.new && mv pid.new pid; while ! test -e go; do sleep 0.05; done"}}
	logs := provisionExec(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Run(ctx, someMoment); err != nil {
		t.Fatal(err)
	}
	cancel()
	pid := testkit.PIDs(t, testkit.ReadSoon(t, filepath.Join(dir, "pid")), 1)[0]
	if sid, err := unix.Getsid(pid); sid != pid {
		t.Errorf("found session %d (%v), expected its own, %d", sid, err, pid)
	}
	if logs.FilterMessage("detached command ended").Len() != 0 {
		t.Error("found the command ended, expected it to go on")
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Poll(t, "the end of the detached command", func() bool {
		return logs.FilterLevelExact(zapcore.DebugLevel).FilterMessage("detached command ended").Len() == 1
	})
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("found %v, expected no process, not even a zombie", err)
	}
}

func provisionExec(t *testing.T, s *Step) *observer.ObservedLogs {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	if err := s.provision(zap.New(core)); err != nil {
		t.Fatal(err)
	}
	return logs
}

// runExec runs a step that is to succeed.
func runExec(t *testing.T, s *Step) *observer.ObservedLogs {
	t.Helper()
	logs := provisionExec(t, s)
	if err := s.Run(t.Context(), someMoment); err != nil {
		t.Fatal(err)
	}
	return logs
}

// ended returns the fields of the one "command ended" in the log: a warning if the
// command has failed.
func ended(t *testing.T, logs *observer.ObservedLogs) map[string]any {
	t.Helper()
	entries := logs.FilterMessage("command ended").All()
	if len(entries) != 1 {
		t.Fatalf("found %d commands ended in the log, expected 1", len(entries))
	}
	fields := entries[0].ContextMap()
	level := zapcore.InfoLevel
	if fields["error"] != nil {
		level = zapcore.WarnLevel
	}
	if entries[0].Level != level {
		t.Errorf("found level %s, expected %s", entries[0].Level, level)
	}
	return fields
}
