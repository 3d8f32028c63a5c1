//go:build unix

package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// guard is a shell that kills its own process group when Caddy has died. The shell reads from a
// socket whose other end only Caddy has, so that its input ends when Caddy dies. A process that
// Caddy is just starting also has Caddy's end, until its program runs. It is in the group by then,
// so the guard cannot act too early and miss it.
type guard struct {
	pid  int
	line *os.File // Caddy's end
}

// guardScript is the program of the guard. It ignores the signals that are meant for the service,
// and then prints an empty line. It reads the pid of the service's process: if that makes a group
// of its own, this is the group's number.
const guardScript = `trap "" HUP INT QUIT TERM USR1 USR2; echo; while read line; do pid=$line; done; kill -s KILL -- "-$pid"; kill -s KILL 0`

const guardPatience = 5 * time.Second // how long a guard may take to print its empty line

var errNoShell = errors.New("found no sh in PATH, expected one")

// startGuard starts a guard in a process group, and returns when it is ready; group 0 is a new one.
// It does not use os/exec, which would need two more descriptors.
func startGuard(group int) (*guard, error) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		return nil, errNoShell
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	const closed = ^uintptr(0)
	pid, err := syscall.ForkExec(shell, []string{"sh", "-c", guardScript}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   Environment(os.Environ()),
		Files: []uintptr{uintptr(theirs), uintptr(theirs), closed},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pgid: group},
	})
	_ = syscall.Close(theirs)
	if err != nil {
		_ = syscall.Close(ours)
		return nil, fmt.Errorf("%s: %w", shell, err)
	}
	g := &guard{pid: pid, line: os.NewFile(uintptr(ours), "guard")}
	if err = g.hear(); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		g.reap()
		return nil, fmt.Errorf("%s: found no answer of the guard, expected one within %s: %w", shell, guardPatience, err)
	}
	return g, nil
}

// socketPair returns two descriptors that no other process inherits. The first does not block.
func socketPair() (ours, theirs int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return 0, 0, err
	}
	syscall.CloseOnExec(pair[0])
	syscall.CloseOnExec(pair[1])
	return pair[0], pair[1], syscall.SetNonblock(pair[0], true)
}

// hear waits for the empty line that the guard prints when it is ready.
func (g *guard) hear() error {
	if err := g.line.SetReadDeadline(time.Now().Add(guardPatience)); err != nil {
		return err
	}
	if _, err := io.ReadFull(g.line, make([]byte, 1)); err != nil {
		return err
	}
	return g.line.SetReadDeadline(time.Time{})
}

func (g *guard) tell(pid int) {
	_, _ = io.WriteString(g.line, strconv.Itoa(pid)+"\n") // fails if the guard has ended; keep replaces it
}

// wait returns when the guard has ended: only the guard has the other end of the line.
func (g *guard) wait() { _, _ = io.Copy(io.Discard, g.line) }

// reap kills the guard, if it still runs, and waits for it, so that it does not stay as a zombie.
// After that the number of its group is free if the group has no other member.
func (g *guard) reap() {
	_ = syscall.Kill(g.pid, syscall.SIGKILL)
	_ = g.line.Close()
	for {
		if _, err := syscall.Wait4(g.pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
