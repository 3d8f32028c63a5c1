//go:build !linux

package proc

import "os/exec"

// WaitThen waits for the end of a command and then calls then. The command's pid is free by
// then: these systems do not let Go wait without that. It is not given to another process
// as long as a group of that number has a member.
func WaitThen(cmd *exec.Cmd, then func(failed bool)) error {
	err := cmd.Wait()
	then(err != nil)
	return err
}
