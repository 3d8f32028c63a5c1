// Package testkit has what the tests of several packages need.
package testkit

import (
	"testing"
	"time"
)

// Poll waits until ok is true, and ends the test if that does not come soon.
func Poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20s for %s in vain", what)
		}
	}
}
