//go:build !linux && !freebsd

package proc

import "os/exec"

// DieWithParent does nothing: this system has no such signal.
func DieWithParent(*exec.Cmd) {}
