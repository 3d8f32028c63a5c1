//go:build unix

package proc

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
)

// group is the process group of a process. All that the process starts is in the group too, unless it
// moves out. The leader of a service's group is a guard (see guard_unix.go), which starts before the
// process. If Caddy dies at any moment without having killed the group, the guard kills it.
// dieWithParent is not enough: its signal reaches the process only, not what the process has started.
// (LibreOffice, for one, serves in a child of the process that Caddy starts.)
//
// The group of a command has no guard, nor does a group where there is no shell. Then the process
// leads it.
//
// The id of the group is the pid of its first leader. No other process gets this number while the
// group has a member. A member that has ended counts until it is waited for. So the last guard is
// waited for only after the last signal to the group.
type group struct {
	logger func() *zap.Logger
	id     int // 0 until the group has a leader
	pid    int // of the process
	guard  *guard

	ctx  context.Context // done when no guard is replaced any more
	over func()          // ends ctx
	kept chan struct{}   // closed when keep has returned
}

// openGroup returns a new group, with a guard unless logger is nil. If the guard cannot start,
// openGroup logs why, and keep tries again. The owner must call close in the end.
func openGroup(logger func() *zap.Logger) *group {
	g := &group{logger: logger, kept: make(chan struct{})}
	g.ctx, g.over = context.WithCancel(context.Background())
	guard, err := (*guard)(nil), errNoShell
	if logger != nil {
		guard, err = startGuard(0)
	}
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

// join makes cmd start in the group.
func (g *group) join(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: g.id}
}

// watch must be called when the process has started. From then on a guard that ends is replaced.
func (g *group) watch(pid int) {
	g.pid = pid
	if g.id == 0 {
		g.id = pid
	}
	if g.guard != nil {
		g.guard.tell(pid)
	}
	go g.keep()
}

// GuardPause is the least time between two starts of a guard.
const GuardPause = time.Second

// keep replaces each guard that ends, until the group is over.
func (g *group) keep() {
	defer close(g.kept)
	var tried time.Time // when the last guard was started, or was not
	if g.guard != nil {
		tried = time.Now()
	}
	for told := false; ; {
		if g.guard != nil {
			g.guard.wait()
		}
		if !clock.Sleep(g.ctx, GuardPause-time.Since(tried)) {
			return
		}
		tried = time.Now()
		guard, err := startGuard(g.id)
		if err != nil {
			if !told {
				g.logger().Warn("service has no guard, which would end it if Caddy were killed; trying again", zap.Int("pid", g.pid), zap.Error(err))
			}
			told = true
			continue
		}
		if g.ctx.Err() != nil { // this guard may have missed the signal that killed the group
			guard.reap()
			return
		}
		if g.guard != nil {
			g.guard.reap()
		}
		g.guard, told = guard, false
		guard.tell(g.pid)
		g.logger().Warn("service had no guard, which would end it if Caddy were killed; it has one again", zap.Int("pid", g.pid))
	}
}

// terminate asks all processes in the group to end. The guard ignores the signal.
func (g *group) terminate() error { return g.signal(syscall.SIGTERM) }

// kill kills all processes in the group, and the guard.
func (g *group) kill() error {
	g.over()
	return g.signal(syscall.SIGKILL)
}

// sweep kills what the process has left behind at its end.
func (g *group) sweep() { _ = g.kill() }

// signal also reaches the group that the process may have made for itself. It must not be called
// after the process was waited for: then another process may have its number.
func (g *group) signal(sig syscall.Signal) error {
	err := syscall.Kill(-g.id, sig)
	if g.pid != g.id {
		_ = syscall.Kill(-g.pid, sig)
	}
	return err
}

// close ends the guard. It must be called after the group was killed and the process
// waited for, or if the process has not started.
func (g *group) close() {
	if g.pid != 0 {
		<-g.kept
	}
	if g.guard != nil {
		g.guard.reap()
	}
}

func newSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
