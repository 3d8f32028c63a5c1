//go:build unix

package proc

import (
	"os/exec"
	"syscall"
)

func newGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func newSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// killGroup kills the command that runs as pid and all that it has started, except what has moved
// to another group.
func killGroup(pid int) error {
	return syscall.Kill(-pid, syscall.SIGKILL)
}

// killLeftOver kills what the command has left behind at its end. It must be called before another
// process can have the pid, see WaitThen.
func killLeftOver(pid int) {
	_ = killGroup(pid)
}
