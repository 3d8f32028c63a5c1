package proc

import (
	"os/exec"

	"go.uber.org/zap"
)

// Group is a service's process with all that it starts. It has no guard here: a process that ends
// with Caddy would need a job object.
type Group struct{ pid int }

// OpenGroup returns a new group.
func OpenGroup(func() *zap.Logger) *Group { return new(Group) }

// Join makes cmd start in the group.
func (*Group) Join(cmd *exec.Cmd) { newGroup(cmd) }

// Watch must be called when the process has started.
func (g *Group) Watch(pid int) { g.pid = pid }

// Close does nothing.
func (*Group) Close() {}

// Terminate kills: Windows cannot ask a process without a window to end.
func (g *Group) Terminate() { _ = g.Kill() }

// Kill kills the process and all that it has started.
func (g *Group) Kill() error { return killGroup(g.pid) }

// Sweep does nothing: after the end of a process, Windows does not tell what it has started.
func (*Group) Sweep() {}
