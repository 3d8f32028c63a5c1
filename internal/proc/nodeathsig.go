//go:build !linux && !freebsd

package proc

import "os/exec"

// dieWithParent does nothing: this system has no such signal.
func dieWithParent(*exec.Cmd) {}
