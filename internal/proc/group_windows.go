package proc

import (
	"os/exec"

	"go.uber.org/zap"
)

// Group is a process of a service with all that it starts. It has no guard here: a
// process that is to end with Caddy would need a job object.
type Group struct{ pid int }

func OpenGroup(func() *zap.Logger) *Group { return new(Group) }

func (*Group) Join(cmd *exec.Cmd) { newGroup(cmd) }
func (g *Group) Watch(pid int)    { g.pid = pid }
func (*Group) Close()             {}

// Terminate kills: a process without a window cannot be asked to end.
func (g *Group) Terminate()  { _ = g.Kill() }
func (g *Group) Kill() error { return killGroup(g.pid) }

// Sweep does nothing: once the process has ended, Windows knows no more what it has started.
func (*Group) Sweep() {}
