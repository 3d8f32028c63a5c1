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

// killGroup kills the command that runs as pid and all it has started, but what has
// moved to a group of its own.
func killGroup(pid int) error {
	return syscall.Kill(-pid, syscall.SIGKILL)
}

// killLeftOver kills what the command has left behind; see WaitThen.
func killLeftOver(pid int) {
	_ = killGroup(pid)
}
