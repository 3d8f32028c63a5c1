//go:build !unix

package relay_test

import "syscall"

func setBuffers(syscall.RawConn, bool) {}
