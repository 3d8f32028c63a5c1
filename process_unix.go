//go:build unix

package tcplock

import (
	"os"
	"os/exec"
	"syscall"
)

// terminateGroup asks the process that runs as pid, and all in its group, to end.
func terminateGroup(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
}

// guardGroup has the group of process pid killed if Caddy dies without having done it:
// the signal of dieWithParent reaches only the process itself, not what it has started
// (and soffice, for one, is not the process that was started). The guard is a shell in
// that group that waits for the end of a pipe whose other end only Caddy holds. It is
// there to help: where there is no shell, there is no guard.
func guardGroup(pid int) (end func()) {
	r, w, err := os.Pipe()
	if err != nil {
		return func() {}
	}
	defer r.Close()
	guard := exec.Command("sh", "-c", `trap "" HUP INT TERM; read line; kill -KILL 0`)
	guard.Stdin, guard.Dir = r, "/"
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: pid}
	if guard.Start() != nil {
		w.Close()
		return func() {}
	}
	return func() {
		w.Close()
		_ = guard.Wait() // it was killed with the group, or kills it now
	}
}
