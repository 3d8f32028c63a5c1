package tcplock

import (
	"os/exec"

	"go.uber.org/zap"
)

// processGroup is a process of a service with all that it starts. It has no guard here: a
// process that is to end with Caddy would need a job object.
type processGroup struct{ pid int }

func openGroup(func() *zap.Logger) *processGroup { return new(processGroup) }

func (*processGroup) join(cmd *exec.Cmd) { newGroup(cmd) }
func (g *processGroup) watch(pid int)    { g.pid = pid }
func (*processGroup) close()             {}

// terminate kills: a process without a window cannot be asked to end.
func (g *processGroup) terminate()  { _ = g.kill() }
func (g *processGroup) kill() error { return killGroup(g.pid) }

// sweep does nothing: once the process has ended, Windows knows no more what it has started.
func (*processGroup) sweep() {}
