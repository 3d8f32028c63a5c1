//go:build unix

package service

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	psutil "github.com/shirou/gopsutil/v4/process"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// TestProcessParent is not a test, but the Caddy of other tests: it starts a process, says so, and waits
// to be killed.
func TestProcessParent(t *testing.T) {
	script := os.Getenv("TCPLOCK_TEST_SCRIPT")
	if script == "" {
		return
	}
	s := shell(script, os.Getenv("TCPLOCK_TEST_FILE"))
	s.Command = "/bin/sh"
	startReal(t, s)
	fmt.Println("started")
	select {}
}

// processParent starts the Caddy that runs a script as its service. It is killed when the
// test ends. The script's argument is the file.
func processParent(t *testing.T, script, file string, env ...string) (caddy *exec.Cmd, says *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessParent$")
	cmd.Env = append(append(os.Environ(), "TCPLOCK_TEST_SCRIPT="+script, "TCPLOCK_TEST_FILE="+file), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

// someChild is a script that starts a child, and notes its own pid and the child's.
const someChild = `/bin/sleep 1000 & echo $$ $! >"$1.new"; /bin/mv "$1.new" "$1"; wait`

// When Caddy is killed, the process and all in its group die with it. Where there is no shell, Linux
// kills the process itself.
func TestProcessDiesWithParent(t *testing.T) {
	for _, test := range []struct {
		name, path string
		dead       int // how many of the process and its child
	}{
		{"with a shell", os.Getenv("PATH"), 2},
		{"without", "/nonexistent", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.dead == 1 && runtime.GOOS != "linux" && runtime.GOOS != "freebsd" {
				t.Skip("no such signal")
			}
			pids := testkit.File(t)
			caddy, _ := processParent(t, someChild, pids, "PATH="+test.path)
			started := strings.Fields(testkit.ReadSoon(t, pids))
			child := testkit.PIDs(t, started[1], 1)[0]
			defer syscall.Kill(child, syscall.SIGKILL)
			_ = caddy.Process.Kill()
			testkit.WantDead(t, strings.Join(started[:test.dead], " "), test.dead)
		})
	}
}

// The service itself kills Caddy, with SIGKILL, as soon as it has started something, while all
// cores are busy. Nothing is left, since the guard was there before the service.
func TestGuardIsThereFirst(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	var rest atomic.Bool
	defer rest.Store(true)
	for range 2 * runtime.NumCPU() {
		go func() {
			for !rest.Load() { // keeps a core busy
			}
		}()
	}
	runs := 20
	if testing.Short() {
		runs = 3
	}
	for range runs {
		file := testkit.File(t)
		processParent(t, `/bin/sleep 1000 & echo $$ $! >"$1"; kill -9 $PPID; wait`, file)
		var started string
		testkit.Poll(t, "the pids of the service and its child", func() bool {
			started = testkit.ReadSoon(t, file)
			return strings.HasSuffix(started, "\n")
		})
		child := testkit.PIDs(t, strings.Fields(started)[1], 1)[0]
		defer syscall.Kill(child, syscall.SIGKILL)
		testkit.WantDead(t, started, 2)
	}
}

// A guard that is killed is no zombie, and there is another soon: if Caddy is killed then,
// nothing is left all the same.
func TestGuardKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	pids := testkit.File(t)
	caddy, _ := processParent(t, someChild, pids)
	started := testkit.ReadSoon(t, pids)
	service := testkit.PIDs(t, strings.Fields(started)[0], 1)[0]
	child := testkit.PIDs(t, strings.Fields(started)[1], 1)[0]
	defer syscall.Kill(child, syscall.SIGKILL)
	var killed []int
	for range 2 {
		var guard int
		testkit.Poll(t, "a guard", func() bool {
			guard = guardOf(t, caddy.Process.Pid, service)
			return guard != 0 && !slices.Contains(killed, guard)
		})
		if err := syscall.Kill(guard, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed = append(killed, guard)
	}
	testkit.Poll(t, "the third guard", func() bool {
		guard := guardOf(t, caddy.Process.Pid, service)
		return guard != 0 && !slices.Contains(killed, guard)
	})
	for _, guard := range killed {
		testkit.Poll(t, "the end of guard "+strconv.Itoa(guard), func() bool { return syscall.Kill(guard, 0) == syscall.ESRCH })
	}
	if !testkit.Alive(service) || !testkit.Alive(child) {
		t.Error("found the service dead, expected that the end of a guard is not its end")
	}
	_ = caddy.Process.Kill()
	testkit.WantDead(t, started, 2)
}

// guardOf returns the other child of Caddy that is in the group of the service.
func guardOf(t *testing.T, caddy, service int) int {
	t.Helper()
	group, err := syscall.Getpgid(service)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := psutil.NewProcess(int32(caddy))
	if err != nil {
		t.Fatal(err)
	}
	children, _ := parent.Children()
	for _, child := range children {
		pid := int(child.Pid)
		if g, _ := syscall.Getpgid(pid); pid != service && g == group && testkit.Alive(pid) {
			return pid
		}
	}
	return 0
}

// While a service runs, its guard may end any number of times. That leaves no zombie and no descriptor.
// The end of the service kills the whole group, with the guard.
func TestGuardLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	p, logs := startReal(t, shell("exec sleep 1000"))
	group, err := syscall.Getpgid(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if group == p.PID() {
		t.Fatal("found the service at the head of its group, expected its guard")
	}
	before := guardOf(t, os.Getpid(), p.PID())
	_ = syscall.Kill(before, syscall.SIGKILL)
	testkit.Poll(t, "another guard, which is told", func() bool {
		return guardOf(t, os.Getpid(), p.PID()) != 0 && logs.FilterMessageSnippet("it has one again").Len() == 1
	})
	if err := syscall.Kill(before, 0); err != syscall.ESRCH {
		t.Errorf("found %v for the first guard, expected no process, not even a zombie", err)
	}
	_ = syscall.Kill(-group, syscall.SIGTERM)
	wantExit(t, p)
	p.Release()
}

// A signal from outside that no process survives can reach the whole group, guard and service,
// in one instant. A new guard that is just being started is no member of the group yet and
// lives; nothing waits for the end of that one.
func TestGroupKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	var all []*osProcess
	for range 24 {
		p, err := startProcess(shell("exec sleep 1000"), someProcess, zap.NewNop)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.(*osProcess))
	}
	time.Sleep(proc.GuardPause * 11 / 10) // from then on another guard comes at once
	for _, p := range all {
		group, err := syscall.Getpgid(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
	for _, p := range all {
		wantExit(t, p)
		p.Release()
	}
}

// A service that leaves the group for a session of its own is still asked to end, and
// killed, with what it has started there; also if Caddy is killed.
func TestServiceInItsOwnSession(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("no setsid")
	}
	for _, test := range []struct {
		name string
		end  func(*osProcess)
	}{
		{"terminated", (*osProcess).Terminate},
		{"killed", (*osProcess).Kill},
		{"by itself", func(p *osProcess) { _ = syscall.Kill(p.PID(), syscall.SIGKILL) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "by itself" && runtime.GOOS != "linux" {
				t.Skip("only Linux knows its group when it has ended")
			}
			nothingLeft(t)
			pids := testkit.File(t)
			p, _ := startReal(t, &Service{Command: "setsid", Args: []string{"sh", "-c", someChild, "sh", pids}})
			started := testkit.ReadSoon(t, pids)
			if got := testkit.PIDs(t, strings.Fields(started)[0], 1)[0]; got != p.PID() {
				t.Fatalf("found process %d, expected %d: setsid has started another", got, p.PID())
			}
			test.end(p)
			wantExit(t, p)
			p.Release()
			testkit.WantDead(t, started, 2)
		})
	}
	t.Run("Caddy killed", func(t *testing.T) {
		pids := testkit.File(t)
		caddy, says := processParent(t, `exec setsid sh -c '`+someChild+`' sh "$1"`, pids)
		started := testkit.ReadSoon(t, pids)
		defer syscall.Kill(testkit.PIDs(t, strings.Fields(started)[1], 1)[0], syscall.SIGKILL)
		if _, err := says.ReadString('\n'); err != nil { // the guard knows of it by then
			t.Fatal(err)
		}
		_ = caddy.Process.Kill()
		testkit.WantDead(t, started, 2)
	})
}

// A shell that does not act as a guard is no guard. The service runs without one, and gets one as soon
// as there is a shell that does.
func TestGuardThatDoesNotAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/sh", []byte("#!/bin/sh\nexit\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir)
	s := shell("exec /bin/sleep 1000")
	s.Command = "/bin/sh"
	p, logs := startReal(t, s)
	if group, _ := syscall.Getpgid(p.PID()); group != p.PID() {
		t.Errorf("found group %d, expected the service's own, %d", group, p.PID())
	}
	if logs.FilterMessageSnippet("guard of a service has not started").Len() != 1 {
		t.Errorf("found %v in the log, expected that there is no guard", logs.All())
	}
	t.Setenv("PATH", path)
	testkit.Poll(t, "a guard, now that there is a shell", func() bool { return guardOf(t, os.Getpid(), p.PID()) != 0 })
	p.Kill()
	wantExit(t, p)
	p.Release()
}
