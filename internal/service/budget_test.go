package service

import (
	"testing"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds/fdstest"
)

// The budget counts at least as many descriptors as processes really have, and none when they have
// ended.
func TestDescriptorsOfAProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	fdstest.WantCounted(t, func(t *testing.T) {
		p, err := startProcess(&Service{Command: "sleep", Args: []string{"60"}}, ID{"l", 1, ""}, zap.NewNop)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Kill(); <-p.Exited(); p.Release() })
	})
}
