//go:build !linux

package proc

import psutil "github.com/shirou/gopsutil/v4/process"

// listProcesses returns the parent of each process.
func listProcesses() (map[int]int, error) {
	all, err := psutil.Processes()
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int, len(all))
	for _, p := range all {
		if parent, err := p.Ppid(); err == nil {
			parents[int(p.Pid)] = int(parent)
		}
	}
	return parents, nil
}

// memoryOf returns the resident memory of a process, in bytes. Memory that it shares with others
// counts in full, because these systems do not tell the share.
func memoryOf(pid int) (uint64, error) {
	p, err := psutil.NewProcess(int32(pid))
	if err != nil {
		return 0, err
	}
	info, err := p.MemoryInfo()
	if err != nil {
		return 0, err
	}
	return info.RSS, nil
}
