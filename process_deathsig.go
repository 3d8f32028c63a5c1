//go:build linux || freebsd

package tcplock

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the system kill the process when Caddy dies.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
