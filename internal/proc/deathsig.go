//go:build linux || freebsd

package proc

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the system kill the process of cmd when Caddy dies. Call it after join.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
