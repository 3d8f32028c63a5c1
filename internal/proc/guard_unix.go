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

// guard is a shell that kills the process group it is in when Caddy has died. It has one end
// of a socket whose other end only Caddy holds: the end of Caddy is the end of its
// input. A process that Caddy is just starting holds that end as well until its program runs,
// and it is in the group by then; so the guard never acts too early to reach it.
type guard struct {
	pid  int
	line *os.File // Caddy's end
}

// guardScript is what the guard does. It ignores the signals that are meant for the service,
// and says so with an empty line. What it is told is the number of the group that the
// service makes if it leaves its own.
const guardScript = `trap "" HUP INT QUIT TERM USR1 USR2; echo; while read line; do pid=$line; done; kill -s KILL -- "-$pid"; kill -s KILL 0`

const guardPatience = 5 * time.Second // how long a guard may take to say that it is there

var errNoShell = errors.New("found no sh in PATH, expected one")

// startGuard starts a guard in a process group, 0 being one of its own, and returns when it
// is on its guard. It is started without os/exec, which would use two more descriptors.
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

// hear waits for the line that says that the guard is there.
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
	_, _ = io.WriteString(g.line, strconv.Itoa(pid)+"\n") // one that has just ended is replaced
}

// wait returns when the guard has ended, for then nothing holds the other end any more.
func (g *guard) wait() { _, _ = io.Copy(io.Discard, g.line) }

// reap kills the guard, if it is there still, and waits for it: it is no zombie then, and the
// number of its group is free if the group has no other member.
func (g *guard) reap() {
	_ = syscall.Kill(g.pid, syscall.SIGKILL)
	_ = g.line.Close()
	for {
		if _, err := syscall.Wait4(g.pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
