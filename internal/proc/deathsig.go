//go:build linux || freebsd

package proc

import (
	"os/exec"
	"syscall"
)

// DieWithParent makes the system kill the process of cmd when Caddy dies. Call it after Join or
// another function that sets cmd.SysProcAttr.
func DieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
