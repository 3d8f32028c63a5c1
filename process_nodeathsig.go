//go:build !linux && !freebsd

package tcplock

import "os/exec"

// dieWithParent does nothing: the system has no such signal.
func dieWithParent(*exec.Cmd) {}
