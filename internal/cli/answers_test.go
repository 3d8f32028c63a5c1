package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// processes starts an admin API that answers with these pids in turn, and then with the last one.
func processes(t *testing.T, pids ...int) (address string) {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pid := pids[min(int(asked.Add(1)), len(pids))-1]
		answer := any(status.Lock{Name: "a", PID: pid, Paused: &status.Pause{Since: sampleTime}})
		if r.URL.Path == status.AdminPath {
			answer = map[string]any{"pid": pid, "locks": []any{answer}}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// If two processes answer, a command says so once, with their pids. It says nothing if all answers
// come from one process, or have no pid, as those of an older version.
func TestTwoProcessesAnswer(t *testing.T) {
	const lines = "drain a --wait\npause a\nrestart\nkick 7\nrun a activate\nstatus a\nstatus a --json"
	for line := range strings.SplitSeq(lines, "\n") {
		for want, pids := range map[int][]int{0: {12}, 1: {12, 34, 12, 34}} {
			address := processes(t, pids...)
			out, err := execute(append(strings.Fields(line), "--address", address)...)
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			warning := "Warning: two Caddys answer at " + address + " (pid 12 and 34): "
			if n := strings.Count(out, warning); n != want || strings.Count(out, "Warning") != want {
				t.Errorf("%s, answered by %v: found the warning %d times, expected %d, in:\n%s", line, pids, n, want, out)
			}
		}
	}
	if out, err := execute("pause", "a", "--address", processes(t, 0, 12)); err != nil || strings.Contains(out, "Warning") {
		t.Errorf("of one without a pid and one with: error %v, found %q, expected no warning", err, out)
	}
}

// The warning ends when the new Caddy alone has answered for a while.
func TestAnswersAreForgotten(t *testing.T) {
	c := adminClient{address: "x"}
	for i, pid := range slices.Concat([]int{12}, slices.Repeat([]int{34}, recentAnswers)) {
		c.noteAnswer(pid)
		two := i > 0 && i < recentAnswers
		if got := c.warning() != ""; got != two {
			t.Errorf("answer %d: found a warning: %t, expected %t", i+1, got, two)
		}
	}
}

// top shows the warning while two processes answer, and removes it when only one does.
func TestTopWarning(t *testing.T) {
	shown := func(p polled) bool {
		p.at = sampleTime
		top := topOf()
		top.update(p)
		return strings.Contains(printed(top.view(80, 24)), "two Caddys")
	}
	if !shown(polled{warning: "two Caddys answer"}) {
		t.Error("found no warning, expected one")
	}
	if shown(polled{}) {
		t.Error("found a warning, expected none")
	}
}
