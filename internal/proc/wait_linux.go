package proc

import (
	"errors"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitThen waits for the end of a command, and calls then while the pid is still reserved: during
// that call no other process can have it. It returns what cmd.Wait returns.
func waitThen(cmd *exec.Cmd, then func(failed bool)) error {
	var info unix.Siginfo
	for {
		switch err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil: // this system has no waitid
			err := cmd.Wait()
			then(err != nil)
			return err
		default:
			const exited = 1 // CLD_EXITED
			then(info.Code != exited || (*childInfo)(unsafe.Pointer(&info)).status != 0)
			return cmd.Wait()
		}
	}
}

// childInfo is the layout of a unix.Siginfo about a child. The part after the head is aligned like
// a pointer.
type childInfo struct {
	_      [3]int32
	_      [0]uintptr
	_, _   int32 // pid, uid
	status int32
}
