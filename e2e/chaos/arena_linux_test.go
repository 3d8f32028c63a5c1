//go:build chaos && linux

package chaos

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The arena is a network namespace with Caddy, the services and the clients. A second namespace has
// the far clients, and the link between the two can be cut. So all ports are free, each client can
// have an address of its own, all processes of the test are easy to find, and nothing stays after
// the test.

const (
	arenaEnv = "TCPLOCK_CHAOS_ARENA" // set inside the arena
	caddyEnv = "TCPLOCK_CHAOS_CADDY" // the program to test

	nearAddress = "10.0.0.1"
	farAddress  = "10.0.0.2"
)

// runInArena runs this test again inside the arena, and waits for its end.
func runInArena(t *testing.T, arg, env string) {
	cmd := exec.Command("/proc/self/exe", append(os.Args[1:], arg, "-test.run=^"+t.Name()+"$", "-test.v=true", "-test.count=1")...)
	cmd.Env = append(os.Environ(), arenaEnv+"=1", env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	skipped := false
	cmd.Stdout = &lines{line: func(line []byte) {
		t.Log(string(line))
		skipped = skipped || bytes.HasPrefix(line, []byte("--- SKIP"))
	}}
	cmd.Stderr = cmd.Stdout
	ended, err := startBound(cmd)
	if err != nil {
		lacks(t, "a network namespace of its own (root, or user namespaces): %v", err)
	}
	arena, err := namespaceOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("inside: %v", err)
	}
	left := processesIn(arena)
	for end := time.Now().Add(patience); len(left) > 0 && t.Failed() && time.Now().Before(end); left = processesIn(arena) {
		time.Sleep(50 * time.Millisecond) // after a failure Caddy was killed, and its processes are about to end
	}
	for _, pid := range left {
		t.Errorf("left behind: process %d, %s", pid, commandLine(pid))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if skipped {
		t.SkipNow()
	}
}

// startBound starts a program that is killed when this process dies. The channel gets the result of
// Wait.
func startBound(cmd *exec.Cmd) (ended chan error, err error) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.WaitDelay = 5 * time.Second
	ended, started := make(chan error, 1), make(chan error)
	go func() {
		runtime.LockOSThread() // the signal comes when the starting thread ends
		err := cmd.Start()
		if started <- err; err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}

// lines splits output into lines and calls line for each.
type lines struct {
	line func([]byte)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.line(line)
		l.rest = rest
	}
}

// lacks skips the test on a machine that cannot run it. If TCPLOCK_REQUIRE_SERVICES is 1, the test
// fails instead.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(format, args...)
	if os.Getenv("TCPLOCK_REQUIRE_SERVICES") == "1" {
		t.Fatalf("cannot have %s, expected it: TCPLOCK_REQUIRE_SERVICES is 1", what)
	}
	t.Skipf("needs %s", what)
}

// namespaceOf returns the name of the network namespace of a process.
func namespaceOf(pid int) (string, error) { return os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// processesIn lists the processes in a network namespace. A zombie is in none.
func processesIn(namespace string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if ns, err := namespaceOf(pid); err == nil && ns == namespace {
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandLine(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(line), "\x00", " ")
}

// othersIn lists the processes in a network namespace, except this one.
func othersIn(namespace string) []int {
	return slices.DeleteFunc(processesIn(namespace), func(pid int) bool { return pid == os.Getpid() })
}

// farSide is the network namespace of the far clients.
type farSide struct {
	namespace *os.File

	mu  sync.Mutex
	cut chan struct{} // closed when the link is cut
}

// furnish makes the arena's interfaces and the far side.
func furnish(t *testing.T) *farSide {
	t.Helper()
	far, made := &farSide{cut: make(chan struct{})}, make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with this function
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			far.namespace, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
	}()
	if err := <-made; err != nil {
		lacks(t, "a second network namespace: %v", err)
	}
	t.Cleanup(func() { far.namespace.Close() })
	ip := func(args ...string) {
		t.Helper()
		if err := run("ip", args...); err != nil {
			lacks(t, "interfaces (iproute2): %v", err)
		}
	}
	ip("link", "set", "lo", "up")
	ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), far.namespace.Fd()))
	ip("addr", "add", nearAddress+"/24", "dev", "near")
	ip("link", "set", "near", "up")
	if err := far.do(func() error {
		return run("ip", "addr", "add", farAddress+"/24", "dev", "far")
	}); err != nil {
		t.Fatal(err)
	}
	if err := far.connect(true); err != nil {
		t.Fatal(err)
	}
	return far
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// do calls fn on the far side.
func (f *farSide) do(fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: no other goroutine may get this thread
		if err := unix.Setns(int(f.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- fn()
	}()
	return <-result
}

// connect connects the link or cuts it. While it is cut, packets are lost without an error.
func (f *farSide) connect(up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	if err := f.do(func() error { return run("ip", "link", "set", "far", state) }); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if up {
		f.cut = make(chan struct{})
	} else {
		close(f.cut)
	}
	return nil
}

// awaitCut waits until the link is cut, for 5 seconds at most.
func (f *farSide) awaitCut() {
	f.mu.Lock()
	cut := f.cut
	f.mu.Unlock()
	select {
	case <-cut:
	case <-time.After(5 * time.Second):
	}
}

// dialFrom connects from a given address, on the far side if far is not nil.
func dialFrom(far *farSide, from netip.AddrPort, to string) (conn *net.TCPConn, err error) {
	dial := func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: 10 * time.Second}
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 60} // a reset may be lost
		c, err := d.Dial("tcp", to)
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	}
	if far != nil {
		return conn, far.do(dial)
	}
	return conn, dial()
}
