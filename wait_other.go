//go:build !linux

package tcplock

import "os/exec"

// waitThen waits for the end of a command and then calls then. The command's pid is free by
// then: these systems do not let Go wait without that. It is not given to another process
// as long as a group of that number has a member.
func waitThen(cmd *exec.Cmd, then func(failed bool)) error {
	err := cmd.Wait()
	then(err != nil)
	return err
}
