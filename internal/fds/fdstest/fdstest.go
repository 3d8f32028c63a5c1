// Package fdstest checks that the budget of descriptors counts all that are open.
package fdstest

import (
	"os"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// WantCounted calls start ten times. It checks that the budget counts at least as many descriptors as
// are then open, and none after the end. What start has started must end when the test t of start
// ends.
func WantCounted(t *testing.T, start func(t *testing.T)) {
	t.Helper()
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("found no /proc/self/fd")
		}
		return len(entries)
	}
	const n = 10
	testkit.Poll(t, "the end of all that the test before has started", func() bool { return fds.Process.InUse() == fds.Use{} })
	before := open()
	t.Run("running", func(t *testing.T) {
		for range n {
			start(t)
		}
		real, counted := int64(open()-before), fds.Process.InUse().Others
		if real > counted || counted == 0 {
			t.Errorf("found %d descriptors for %d of them, and %d in the budget", real, n, counted)
		}
	})
	testkit.Poll(t, "the budget counts nothing any more", func() bool { return fds.Process.InUse() == fds.Use{} })
}
