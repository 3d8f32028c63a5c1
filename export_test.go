package tcplock

import (
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
)

// Budget says what the budget of descriptors counts in all, "" if that is nothing.
func Budget() string { return inside.Process.Budget() }

// SetDescriptorLimit sets what the process may have for the time of a test. What the test before
// has left to end is waited for, for a while: it would be taken away from another budget than
// the one that it was added to.
func SetDescriptorLimit(n int64) (restore func()) {
	for end := time.Now().Add(20 * time.Second); Budget() != "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return inside.Process.SetDescriptorLimit(n)
}

// SetListenFor sets how long a probe listens, for the time of a test.
func SetListenFor(d time.Duration) (restore func()) { return inside.Process.SetListenFor(d) }

// poll waits until ok is true, and ends the test if that does not come soon.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20s for %s in vain", what)
		}
	}
}
