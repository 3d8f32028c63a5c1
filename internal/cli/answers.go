package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// answers remembers which processes gave the last answers of an admin API. Caddy's admin
// listener has SO_REUSEPORT, so a second Caddy can listen on the same address. The system then
// spreads the connections over both, and each knows its own locks only.
type answers struct {
	mu   sync.Mutex
	pids []int // the newest last
}

// recentAnswers is how many of the last answers count. After a restart of Caddy two processes
// have answered too. The warning ends when the new one has answered so many times.
const recentAnswers = 10

// note adds an answer. It ignores 0: an older version answers without a pid.
func (a *answers) note(pid int) {
	if pid == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pids = append(a.pids, pid)
	a.pids = a.pids[max(0, len(a.pids)-recentAnswers):]
}

// warning says that more than one process has answered. It is empty if only one has.
func (a *answers) warning(address string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var pids []string
	for _, pid := range a.pids {
		if text := strconv.Itoa(pid); !slices.Contains(pids, text) {
			pids = append(pids, text)
		}
	}
	if len(pids) < 2 {
		return ""
	}
	return fmt.Sprintf("two Caddys answer at %s (pid %s): either Caddy was restarted just now, or both run, "+
		"and a command reaches one or the other; end one of them, or give each an admin address of its own",
		address, strings.Join(pids, " and "))
}
