//go:build !linux

package proc

import "os/exec"

// waitThen waits for the end of a command, and then calls then. The pid is free by then, because
// here Go cannot wait without freeing it. But no other process gets the number while a group of
// that number has a member. waitThen returns what cmd.Wait returns.
func waitThen(cmd *exec.Cmd, then func(failed bool)) error {
	err := cmd.Wait()
	then(err != nil)
	return err
}
