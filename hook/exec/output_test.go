//go:build unix

package exec

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// The error of a failed command carries its status and the first line of its output, the log all
// of that output and the connection that it ran for.
func TestExecFails(t *testing.T) {
	s := &Step{Command: "sh", Args: []string{"-c", "echo first; echo no display >&2; exit 3"}}
	logs := provisionExec(t, s)
	err := s.Run(t.Context(), someMoment)
	if want := "exec sh: exit status 3: first"; err == nil || err.Error() != want {
		t.Errorf("found %v, expected %s", err, want)
	}
	if code := proc.ExitCode(err); code != 3 {
		t.Errorf("found exit code %d in the error, expected 3", code)
	}
	got := ended(t, logs)
	for name, want := range map[string]any{
		"lock": "soffice", "moment": "release", "slot": int64(2), "command": "sh",
		"exit_code": int64(3), "error": "exit status 3", "output": "first\nno display\n",
		"output_dropped": nil, "output_end": nil,
	} {
		if got[name] != want {
			t.Errorf("%s: found %v, expected %v", name, got[name], want)
		}
	}
	if took, _ := got["duration"].(time.Duration); took <= 0 {
		t.Errorf("duration: found %v, expected more than 0", took)
	}
}

// Out of a long output the log gets the first 8 KiB and the last whole lines, and no
// memory goes into the rest, gigabytes of it.
func TestExecOutputBounded(t *testing.T) {
	s := &Step{Command: "sh", Args: []string{"-c", "echo start; head -c 1073741824 /dev/zero; echo; echo out of paper; exit 1"}}
	logs := provisionExec(t, s)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := s.Run(t.Context(), someMoment)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("found no error, expected exit status 1")
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("found %d bytes allocated, expected less than 1 MiB", used)
	}
	got := ended(t, logs)
	if end := got["output_end"]; end != "out of paper" {
		t.Errorf("found end %q, expected only the last whole line", end)
	}
	if kept := got["output"].(string); len(kept) != 8192 || !strings.HasPrefix(kept, "start\n\x00") {
		t.Errorf("found %d bytes of output, expected the first 8192", len(kept))
	}
	total := len("start\n") + 1<<30 + len("\nout of paper\n")
	if dropped := got["output_dropped"]; dropped != int64(total-8192) {
		t.Errorf("found %v bytes dropped, expected %d", dropped, total-8192)
	}
}

// What a failed command has left behind is killed before its output is waited for.
func TestExecFailedLeavesNothing(t *testing.T) {
	s := &Step{Command: "sh", Args: []string{"-c", "sleep 1000 & echo $!; exit 1"}}
	logs := provisionExec(t, s)
	if err := s.Run(t.Context(), someMoment); err == nil {
		t.Error("found no error, expected exit status 1")
	}
	testkit.WantDead(t, ended(t, logs)["output"].(string), 1)
	if n := logs.FilterMessageSnippet("left a process behind").Len(); n != 0 {
		t.Errorf("found %d warnings of output held, expected 0", n)
	}
}

// A restart script may leave a daemon behind that holds its output. That is worth a
// warning and a moment's wait, but the daemon lives on, also when it prints again.
func TestExecDaemonLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dir := t.TempDir()
	s := &Step{Command: "sh", Dir: dir, Args: []string{"-c",
		"(while ! test -e go; do sleep 0.05; done; echo hello && echo yes > survived) & echo $!"}}
	logs := provisionExec(t, s)
	start := time.Now()
	if err := s.Run(t.Context(), someMoment); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("found %s, expected about 1s", took)
	}
	if n := logs.FilterLevelExact(zapcore.WarnLevel).FilterMessageSnippet("detach").Len(); n != 1 {
		t.Errorf("found %d warnings, expected 1", n)
	}
	pid := testkit.PIDs(t, ended(t, logs)["output"].(string), 1)[0]
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if !testkit.Alive(pid) {
		t.Error("found the daemon dead, expected it to go on")
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.ReadSoon(t, filepath.Join(dir, "survived"))
}
