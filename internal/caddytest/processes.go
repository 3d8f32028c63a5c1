package caddytest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// PsLine is one process in the output of ps.
type PsLine struct {
	Pid, Group int
	Comm, Args string
}

// AllProcesses returns all processes that are not zombies.
func AllProcesses(t *testing.T) (all []PsLine) {
	t.Helper()
	out, err := exec.Command("ps", "-ww", "-e", "-o", "pid=,pgid=,stat=,comm=,args=").Output()
	if err != nil {
		t.Errorf("ps: %v", err)
	}
	for line := range bytes.Lines(out) {
		fields := strings.Fields(string(line))
		// A zombie that still has threads counts: its sockets are open.
		if len(fields) < 4 || fields[2][0] == 'Z' && !strings.Contains(fields[2], "l") {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		group, err2 := strconv.Atoi(fields[1])
		if err != nil || err2 != nil {
			t.Errorf("ps: found %q, expected a pid and a process group", line)
			continue
		}
		all = append(all, PsLine{pid, group, fields[3], strings.Join(fields[4:], " ")})
	}
	return all
}

// Crowd calls do for all items, n at a time.
func Crowd[T any](n int, items []T, do func(i int, item T)) {
	next := make(chan int)
	var working sync.WaitGroup
	for range n {
		working.Go(func() {
			for i := range next {
				do(i, items[i])
			}
		})
	}
	for i := range items {
		next <- i
	}
	close(next)
	working.Wait()
}

// Python is the system's own Python: only this one can import uno.
const Python = "/usr/bin/python3"

// Touch makes an empty file.
func Touch(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ParsePids reads a list of pids.
func ParsePids(t *testing.T, list string) (pids []int) {
	t.Helper()
	for _, field := range strings.Fields(list) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Errorf("found %q, expected pids", list)
		}
		pids = append(pids, pid)
	}
	return pids
}
