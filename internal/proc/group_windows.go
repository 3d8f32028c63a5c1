package proc

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"

	"go.uber.org/zap"
)

const detachedProcess = 0x8 // DETACHED_PROCESS: without the console

// group is a process with all that it starts. It has no guard here: a process that ends with Caddy
// would need a job object.
type group struct{ pid int }

func openGroup(func() *zap.Logger) *group { return new(group) }

// join makes cmd start in the group.
func (*group) join(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func (g *group) watch(pid int) { g.pid = pid }

// close does nothing.
func (*group) close() {}

// terminate kills: Windows cannot ask a process without a window to end.
func (g *group) terminate() error { return g.kill() }

// kill kills the process and all that it has started.
func (g *group) kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), KillDelay)
	defer cancel()
	out, err := exec.CommandContext(ctx, "taskkill", "/T", "/F", "/PID", strconv.Itoa(g.pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("taskkill: %w: %s", err, out)
	}
	return nil
}

// sweep does nothing: after the end of a process, Windows does not tell what it has started, and its
// pid may belong to another process.
func (*group) sweep() {}

func newSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP | detachedProcess}
}
