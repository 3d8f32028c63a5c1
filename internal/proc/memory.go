package proc

import (
	"sync"
	"time"
)

// processTree has the children of all processes of the machine. All workers share one, because a
// list of all processes is needed to find the children of one.
type processTree struct {
	list func() (parents map[int]int, err error) // of each process

	mu       sync.Mutex
	taken    time.Time
	children map[int][]int
}

// treeAge is how old the list of processes may be. Each worker's memory is checked at another time,
// so without it each check would make a list.
const treeAge = 2 * time.Second

var machine = &processTree{list: listProcesses}

// descendants returns pid and the processes that it and they have started.
func (t *processTree) descendants(pid int) ([]int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.children == nil || time.Since(t.taken) > treeAge {
		parents, err := t.list()
		if err != nil {
			return nil, err
		}
		t.taken, t.children = time.Now(), make(map[int][]int)
		for pid, parent := range parents {
			t.children[parent] = append(t.children[parent], pid)
		}
	}
	all := []int{pid}
	// The list was not made in one instant, so it may have a cycle.
	for seen, i := map[int]bool{pid: true}, 0; i < len(all); i++ {
		for _, child := range t.children[all[i]] {
			if !seen[child] {
				seen[child] = true
				all = append(all, child)
			}
		}
	}
	return all, nil
}

// Memory returns the resident memory of the process and its descendants, in bytes. Descendants that
// end meanwhile count as 0. It fails if the process itself has ended.
func (p *Process) Memory() (uint64, error) {
	total, err := memoryOf(p.PID())
	if err != nil {
		return 0, err
	}
	tree, err := machine.descendants(p.PID())
	if err != nil {
		return 0, err
	}
	for _, pid := range tree[1:] {
		n, _ := memoryOf(pid)
		total += n
	}
	return total, nil
}
