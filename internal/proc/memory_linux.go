package proc

import (
	"fmt"

	"github.com/prometheus/procfs"
)

// listProcesses returns the parent of each process.
func listProcesses() (map[int]int, error) {
	all, err := procfs.AllProcs()
	parents := make(map[int]int, len(all))
	for _, p := range all {
		if stat, err := p.Stat(); err == nil { // the process may have ended
			parents[p.PID] = stat.PPID
		}
	}
	return parents, err
}

// memoryOf returns the resident memory of a process, in bytes. Memory that several processes share
// is divided among them (PSS). If the system does not tell the share, as for a process of another
// user, shared memory counts in full.
func memoryOf(pid int) (uint64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	if maps, err := p.ProcSMapsRollup(); err == nil && maps.Pss > 0 {
		return maps.Pss, nil
	}
	return wholeMemory(p)
}

// wholeMemory returns the resident memory of a process in bytes, shared memory in full (RSS).
func wholeMemory(p procfs.Proc) (uint64, error) {
	memory, err := p.Statm()
	if err == nil && memory.Resident == 0 {
		err = fmt.Errorf("memory of process %d: found none, it has ended", p.PID)
	}
	return memory.ResidentBytes(), err
}
