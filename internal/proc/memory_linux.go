package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// listProcesses returns the parent of each process.
func listProcesses() (map[int]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile("/proc/" + name + "/stat") // the process may have ended
		// "pid (name) state parent ...", and the name may have brackets and spaces.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			parents[pid] = parent
		}
	}
	return parents, nil
}

// memoryOf returns the resident memory of a process, in bytes. Memory that several processes share
// is divided among them (PSS). If the system does not tell the share, as for a process of another
// user, shared memory counts in full.
func memoryOf(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return wholeMemory(pid)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			kib, err := strconv.ParseUint(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" kB"))), 10, 64)
			return kib << 10, err
		}
	}
	return wholeMemory(pid)
}

// wholeMemory returns the resident memory of a process in bytes, shared memory in full (RSS).
func wholeMemory(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text) // in pages: size, resident, ...
	if len(fields) < 2 {
		return 0, fmt.Errorf("memory of process %d: found %q, expected numbers", pid, text)
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err == nil && pages == 0 {
		err = fmt.Errorf("memory of process %d: found none, it has ended", pid)
	}
	return pages * uint64(os.Getpagesize()), err
}
