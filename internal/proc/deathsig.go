//go:build linux || freebsd

package proc

import (
	"os/exec"
	"syscall"
)

// DieWithParent has the system kill the process when Caddy dies.
func DieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
