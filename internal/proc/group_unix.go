//go:build unix

package proc

import (
	"errors"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Group is the process group of a service's process: the process is in it, and so is
// all that it starts, unless that moves out. The leader of the group is a guard (see
// guard_unix.go), which is there before the process: if Caddy dies without having ended
// the group, the guard ends it, at whatever moment that is. The signal of DieWithParent
// reaches the process only, not what it has started (and soffice, for one, is not the
// process that was started).
//
// Where there is no shell there is no guard, and the process leads its group.
//
// The group's number is that of its first leader. It belongs to the group as long as the
// group has a member, and a member that has ended counts until it is waited for. So the
// last guard is waited for only when nothing will be sent to the group any more.
type Group struct {
	logger func() *zap.Logger
	id     int // 0 until the group has a leader
	pid    int // of the process
	guard  *guard

	over func()        // a guard that ends is not replaced any more
	done chan struct{} // closed by over
	kept chan struct{} // closed when keep has returned
}

// OpenGroup starts the guard of a group.
func OpenGroup(logger func() *zap.Logger) *Group {
	g := &Group{logger: logger, done: make(chan struct{}), kept: make(chan struct{})}
	g.over = sync.OnceFunc(func() { close(g.done) })
	guard, err := startGuard(0)
	switch {
	case errors.Is(err, errNoShell):
		g.over()
	case err != nil:
		logger().Warn("guard of a service has not started, trying again", zap.Error(err))
	default:
		g.guard, g.id = guard, guard.pid
	}
	return g
}

// Join has cmd run in the group.
func (g *Group) Join(cmd *exec.Cmd) {
	newGroup(cmd)
	cmd.SysProcAttr.Pgid = g.id
}

// Watch is called when the process has started. From now on there is always a guard.
func (g *Group) Watch(pid int) {
	g.pid = pid
	if g.id == 0 {
		g.id = pid
	}
	if g.guard != nil {
		g.guard.tell(pid)
	}
	go g.keep()
}

// GuardPause is how far two starts of a guard are apart at least.
const GuardPause = time.Second

// keep starts another guard when one has ended, until the group is over.
func (g *Group) keep() {
	defer close(g.kept)
	for pause := time.Duration(0); ; {
		if g.guard != nil {
			began := time.Now()
			g.guard.wait()
			pause = max(0, GuardPause-time.Since(began))
		}
		if !g.replaceGuard(pause) {
			return
		}
	}
}

// replaceGuard tries until it has started a guard. It returns false if the group is over.
func (g *Group) replaceGuard(pause time.Duration) bool {
	for told := false; g.rest(pause); pause = GuardPause {
		guard, err := startGuard(g.id)
		if err != nil {
			if !told {
				g.logger().Warn("service has no guard, which would end it if Caddy were killed; trying again", zap.Int("pid", g.pid), zap.Error(err))
			}
			told = true
			continue
		}
		if g.isOver() { // it may have come too late for the signal that ended the others
			guard.reap()
			return false
		}
		if g.guard != nil {
			g.guard.reap()
		}
		g.guard = guard
		guard.tell(g.pid)
		g.logger().Warn("service had no guard, which would end it if Caddy were killed; it has one again", zap.Int("pid", g.pid))
		return true
	}
	return false
}

// rest returns false if the group is over.
func (g *Group) rest(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-g.done:
		return false
	case <-timer.C:
		return !g.isOver() // both may be true
	}
}

func (g *Group) isOver() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// Terminate asks all in the group to end. The guard does not listen.
func (g *Group) Terminate() { _ = g.signal(syscall.SIGTERM) }

// Kill kills all in the group, the guard as well.
func (g *Group) Kill() error {
	g.over()
	return g.signal(syscall.SIGKILL)
}

// Sweep kills what the process that has ended leaves behind.
func (g *Group) Sweep() { _ = g.Kill() }

// signal must not be called when the process has been waited for. Until then a group that
// has the process's number can only be one that the process has made for itself.
func (g *Group) signal(sig syscall.Signal) error {
	err := syscall.Kill(-g.id, sig)
	if g.pid != g.id {
		_ = syscall.Kill(-g.pid, sig)
	}
	return err
}

// Close is called when the process has been waited for and all in its group were killed, or
// when it has not started.
func (g *Group) Close() {
	if g.pid != 0 {
		<-g.kept
	}
	if g.guard != nil {
		g.guard.reap()
	}
}
