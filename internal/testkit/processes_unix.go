//go:build unix

package testkit

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// PIDs returns the process ids in a text, and expects so many.
func PIDs(t *testing.T, s string, n int) []int {
	t.Helper()
	var pids []int
	for _, word := range strings.Fields(s) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	if len(pids) != n {
		t.Fatalf("found %q, expected %d pids", s, n)
	}
	return pids
}

// WantDead waits until so many processes have ended, whose ids are in the text.
func WantDead(t *testing.T, pids string, n int) {
	t.Helper()
	for _, pid := range PIDs(t, pids, n) {
		Poll(t, fmt.Sprintf("the death of process %d", pid), func() bool { return !Alive(pid) })
	}
}

// Alive reports whether a process runs. It takes an orphan that init has not reaped yet for dead.
func Alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return !bytes.Contains(stat, []byte(") Z "))
}
