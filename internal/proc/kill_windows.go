package proc

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

const detachedProcess = 0x8 // DETACHED_PROCESS: without the console

func newGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func newSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP | detachedProcess}
}

// killGroup kills the command that runs as pid and all that it has started.
func killGroup(pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), KillDelay)
	defer cancel()
	out, err := exec.CommandContext(ctx, "taskkill", "/T", "/F", "/PID", strconv.Itoa(pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("taskkill: %w: %s", err, out)
	}
	return nil
}

// killLeftOver does nothing: after the end of a command, Windows does not tell what it has started,
// and its pid may belong to another process.
func killLeftOver(int) {}
