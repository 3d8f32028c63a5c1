// Package fdstest looks that the budget of descriptors counts what is really open.
package fdstest

import (
	"os"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// WantCounted starts ten of something, and looks that the budget counts at least as many
// descriptors as they really have, and none when they have ended. start ends what it has started
// when its test ends.
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
	// What the test before has left to end would be taken away from another budget than the one
	// that it was added to.
	testkit.Poll(t, "the end of what the test before has left", func() bool { return fds.Process.InUse() == "" })
	whole := fds.Process
	fds.Process = fds.New(1024)
	t.Cleanup(func() { fds.Process = whole })
	before := open()
	t.Run("running", func(t *testing.T) {
		for range n {
			start(t)
		}
		real, counted := open()-before, fds.Process.Taken()
		if real > counted || counted == 0 {
			t.Errorf("found %d descriptors for %d of them, and %d in the budget", real, n, counted)
		}
	})
	testkit.Poll(t, "the budget counts nothing any more", func() bool { return fds.Process.InUse() == "" })
}
