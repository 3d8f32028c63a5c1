//go:build unix

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	psutil "github.com/shirou/gopsutil/v4/process"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

var someProcess = ID{"soffice", 2, "localhost:8102"}

// shell is a service that is a shell script.
func shell(script string, args ...string) *Service {
	return &Service{Command: "sh", Args: append([]string{"-c", script, "sh"}, args...)}
}

// startReal starts a process that is killed when the test ends.
func startReal(t *testing.T, s *Service) (*osProcess, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	p, err := startProcess(s, someProcess, func() *zap.Logger { return zap.New(core) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		<-p.Exited()
		p.Release()
	})
	return p.(*osProcess), logs
}

// nothingLeft looks, when the test is over, that it has left no goroutine, no descriptor
// and no zombie.
func nothingLeft(t *testing.T) {
	descriptors := func() int {
		entries, _ := os.ReadDir("/dev/fd")
		return len(entries)
	}
	self, err := psutil.NewProcess(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Poll(t, "the end of the processes of the test before", func() bool {
		children, _ := self.Children()
		return len(children) == 0
	})
	goroutines, open := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() {
		testkit.Poll(t, "goroutines and descriptors as before", func() bool {
			return runtime.NumGoroutine() <= goroutines && descriptors() <= open
		})
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
			t.Errorf("found a child that was not waited for: %v", err)
		}
	})
}

func lines(logs *observer.ObservedLogs) (lines []string) {
	for _, entry := range logs.FilterMessage("output").All() {
		lines = append(lines, entry.ContextMap()["line"].(string))
	}
	return lines
}

func wantExit(t *testing.T, p *osProcess) {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(20 * time.Second):
		t.Fatal("process still runs after 20s")
	}
}

// The process runs in its directory, and its environment has its slot and its worker. Its output is
// in the log, line by line.
func TestProcessSurroundings(t *testing.T) {
	nothingLeft(t)
	parent, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "2")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := shell(`pwd; echo "$1 $TCPLOCK_NAME $TCPLOCK_SLOT $TCPLOCK_WORKER $TCPLOCK_WORKER_HOST $TCPLOCK_WORKER_PORT"; echo "$A" >&2; printf last`, "a b {l4.tcplock.worker_port}")
	s.Dir, s.Env = parent+"/{l4.tcplock.slot}", map[string]string{"A": `{l4.tcplock.worker_host} \{`}
	p, logs := startReal(t, s)
	wantExit(t, p)
	p.Release()
	want := []string{dir, "a b 8102 soffice 2 localhost:8102 localhost 8102", "localhost {", "last"}
	if got := lines(logs); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("found %q, expected %q", got, want)
	}
	if p.Cause() != nil {
		t.Errorf("found %v, expected status 0", p.Cause())
	}
}

// A process that cannot be started is an error, and leaves nothing behind.
func TestProcessNotStarted(t *testing.T) {
	nothingLeft(t)
	for _, s := range []*Service{{Command: "no-such-command-here"}, {Command: "true", Dir: "/no/such/directory"}} {
		if _, err := startProcess(s, someProcess, zap.NewNop); err == nil {
			t.Errorf("%+v: found no error", s)
		}
	}
}

// A long line is cut, and of many lines the log gets the first hundred of each second. The process is
// not held up. The log has the number of dropped lines, also if no line follows.
func TestProcessOutputBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	p, logs := startReal(t, shell(`head -c 10000 /dev/zero | tr '\0' x; echo; i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done; exec sleep 1000`))
	testkit.Poll(t, "all lines told", func() bool {
		var dropped int64
		for _, entry := range logs.FilterMessageSnippet("dropped").All() {
			dropped += entry.ContextMap()["lines"].(int64)
		}
		return dropped+int64(len(lines(logs))) == 5001
	})
	first := logs.FilterMessage("output").All()[0].ContextMap()
	if n := len(first["line"].(string)); n != lineKept || first["bytes_cut"] != int64(10000-lineKept) {
		t.Errorf("found %d bytes and %v cut, expected %d and %d", n, first["bytes_cut"], lineKept, 10000-lineKept)
	}
	if n := len(lines(logs)); n%linesLogged != 0 || n > 10*linesLogged {
		t.Errorf("found %d lines, expected %d for each second", n, linesLogged)
	}
	p.Kill()
	wantExit(t, p)
}

// When the process ends, however it does, what it has started in its group is killed,
// even if that ignores the request to end.
func TestProcessGroupEnds(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_PATH", os.Getenv("PATH"))
	t.Run("guarded", testProcessGroupEnds)
	t.Run("no shell for a guard", func(t *testing.T) {
		t.Setenv("PATH", "/nonexistent")
		testProcessGroupEnds(t)
	})
}

func testProcessGroupEnds(t *testing.T) {
	for _, test := range []struct {
		name, last string
		end        func(*osProcess)
	}{
		{"by itself", "exit 3", func(*osProcess) {}},
		{"terminated", "wait", (*osProcess).Terminate},
		{"killed", "wait", (*osProcess).Kill},
		{"killed alone", "wait", func(p *osProcess) { _ = syscall.Kill(p.PID(), syscall.SIGKILL) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			nothingLeft(t)
			pids := testkit.File(t)
			s := shell(`PATH=$TCPLOCK_TEST_PATH; (trap "" TERM; sleep 1000; sleep 1000) & echo $$ $! >"$1.new"; mv "$1.new" "$1"; `+test.last, pids)
			s.Command = "/bin/sh"
			p, _ := startReal(t, s)
			started := testkit.ReadSoon(t, pids)
			test.end(p)
			wantExit(t, p)
			p.Release()
			testkit.WantDead(t, started, 2)
			p.Terminate() // its pid may be another process's by now
			p.Kill()
		})
	}
}

// A process that has moved to a group of its own is out of reach, and holds the output:
// that is not waited for.
func TestProcessEscaped(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("no setsid")
	}
	pid := testkit.File(t)
	p, _ := startReal(t, shell(`setsid sh -c 'echo $$ >"$1"; exec sleep 1000' sh "$1" & while [ ! -s "$1" ]; do sleep 0.01; done`, pid))
	escaped := testkit.PIDs(t, testkit.ReadSoon(t, pid), 1)[0]
	defer syscall.Kill(escaped, syscall.SIGKILL)
	wantExit(t, p)
	began := time.Now()
	p.Release()
	if d := time.Since(began); d < proc.OutputDelay || d > 10*proc.OutputDelay {
		t.Errorf("release took %s, expected about %s", d, proc.OutputDelay)
	}
}

// The memory of a process is its own and that of its descendants.
func TestProcessMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const most = 50_000_000
	p, _ := startReal(t, shell(fmt.Sprintf(`sh -c '(head -c %d /dev/zero; exec sleep 1000) | tail -c %d; true'; true`, most, most)))
	testkit.Poll(t, "memory of a grandchild", func() bool {
		n, err := p.Memory()
		return err == nil && n > most
	})
	p.Kill()
	wantExit(t, p)
	if n, err := p.Memory(); err == nil {
		t.Errorf("found %d bytes of a process that has ended", n)
	}
}

// A process is ready when its address accepts a connection, or when the ready command succeeds, which
// gets the directory and the environment of the process. The supervisor waits no longer than
// ready_timeout, and not after the start is given up.
func TestProcessReady(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	_, port, _ := strings.Cut(ln.Addr().String(), ":")
	flag := testkit.File(t)
	late := []string{"sh", "-c", `test -s "$FLAG" && exit; echo no >&2; exit 1`}
	third := []string{"sh", "-c", `echo >>"$FLAG"; test "$(wc -l <"$FLAG")" -ge 3 && exit; echo no >&2; exit 1`}
	for _, test := range []struct {
		name    string
		service Service
		worker  string
		want    string
	}{
		{"worker", Service{}, ln.Addr().String(), ""},
		{"address", Service{Ready: "{l4.tcplock.worker_host}:" + port}, "127.0.0.1:1", ""},
		{"nothing there", Service{ReadyTimeout: second / 10}, testkit.NoService, "wait " + testkit.NoService + ": not open after 100ms: "},
		{"command says no", Service{ReadyTimeout: 3 * second / 2, ReadyCommand: late}, "", `ready exec sh: not ready after 1.5s: exit status 1: no`},
		{"no such command", Service{ReadyTimeout: second / 10, ReadyCommand: []string{"no-such-command-here"}}, "", "ready exec no-such-command-here: not ready after 100ms: "},
		{"command hangs", Service{ReadyTimeout: second / 10, ReadyCommand: []string{"sleep", "1000"}}, "", "ready exec sleep: not ready after 100ms: "},
		{"command says yes at last", Service{ReadyCommand: third}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := test.service
			s.Env = map[string]string{"FLAG": flag}
			core, logs := observer.New(zap.DebugLevel)
			p := &osProcess{Process: new(proc.Process), service: &s, id: ID{"soffice", 2, test.worker}, logger: func() *zap.Logger { return zap.New(core) }}
			err := p.Ready(t.Context())
			if err == nil != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("found %v, expected %q", err, test.want)
			}
			no := logs.FilterMessage("command ended").FilterField(zap.String("output", "no\n")).Len()
			if strings.HasPrefix(test.name, "command says") && no != 1 {
				t.Errorf("found %d tries with output in the log, expected the first only", no)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	p := &osProcess{Process: new(proc.Process), service: &Service{ReadyCommand: []string{"sleep", "1000"}}, logger: zap.NewNop}
	began := time.Now()
	if err := p.Ready(ctx); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("found %v after %s, expected an error soon", err, time.Since(began))
	}
}

// realSlot is a slot without a holder.
type realSlot struct {
	mu    sync.Mutex
	isOut bool
}

func (s *realSlot) set(out bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isOut = out
}
func (s *realSlot) Out() bool { s.set(true); return true }
func (s *realSlot) In()       { s.set(false) }
func (s *realSlot) Fresh()    {}
func (s *realSlot) Gone()     {}

// Another process soon replaces one that is killed or is to be restarted. A process that ignores the
// request to end is killed. After stop there is none.
func TestSupervisedProcess(t *testing.T) {
	nothingLeft(t)
	s := shell(`trap "" TERM; echo begins; while :; do sleep 1000; done`)
	s.ReadyCommand, s.StopTimeout = []string{"true"}, second/10
	core, logs := observer.New(zap.DebugLevel)
	slot := new(realSlot)
	sup := Supervise(nil, s, someProcess, slot, func() *zap.Logger { return zap.New(core) }, nil)
	sup.Run()
	defer sup.stop()
	if err := sup.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	var pids []string
	next := func(what string) {
		t.Helper()
		testkit.Poll(t, what, func() bool {
			now := sup.Snapshot()
			pid := strconv.Itoa(now.PID)
			if now.State != status.ProcessReady || len(lines(logs)) == len(pids) {
				return false
			}
			pids = append(pids, pid)
			return true
		})
	}
	next("first process")
	sup.Ended(true, true) // so that its end is no failure
	sup.Restart(status.RestartRequest)
	next("process after a request")
	_ = sup.Ready(t.Context())
	sup.Ended(true, true)
	_ = syscall.Kill(testkit.PIDs(t, pids[1], 1)[0], syscall.SIGKILL)
	next("process after a crash")
	if got := sup.Snapshot(); got.Restarts["request"] != 1 || got.Restarts["exit"] != 1 {
		t.Errorf("found %v, expected a request and an exit", got.Restarts)
	}
	sup.stop()
	testkit.WantDead(t, strings.Join(pids, " "), 3)
	entries := logs.FilterMessage("output").FilterField(zap.String("line", "begins")).FilterField(zap.Int("slot", 2)).FilterField(zap.String("lock", "soffice")).All()
	if len(entries) != 3 || entries[0].LoggerName != "service" {
		t.Errorf("found %d lines of output with lock and slot, expected 3 by logger service", len(entries))
	}
}

// A start that is given up leaves nothing behind, not even its ready command.
func TestSupervisedStartAbandoned(t *testing.T) {
	nothingLeft(t)
	pid := testkit.File(t)
	s := shell("exec sleep 1000")
	s.ReadyCommand = []string{"sh", "-c", `echo $$ >"$1"; exec sleep 1000`, "sh", pid}
	sup := Supervise(nil, s, someProcess, new(realSlot), zap.NewNop, nil)
	sup.Run()
	defer sup.stop()
	asking := testkit.ReadSoon(t, pid)
	sup.stop()
	testkit.WantDead(t, asking, 1)
}
