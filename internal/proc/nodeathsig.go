//go:build !linux && !freebsd

package proc

import "os/exec"

// DieWithParent does nothing: the system has no such signal.
func DieWithParent(*exec.Cmd) {}
