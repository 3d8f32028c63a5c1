package proc

import (
	"errors"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WaitThen waits for the end of a command and calls then before the system forgets its
// pid: no other process can have it in then. It returns what cmd.Wait does.
func WaitThen(cmd *exec.Cmd, then func(failed bool)) error {
	var info unix.Siginfo
	for {
		switch err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil: // a system that has no waitid
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

// childInfo is what a unix.Siginfo holds about a child. What follows its head is aligned as
// a pointer is.
type childInfo struct {
	_      [3]int32
	_      [0]uintptr
	_, _   int32 // pid, uid
	status int32
}
