package proc

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds/fdstest"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// The budget counts at least as many descriptors as commands have open, and none after their end.
func TestDescriptorsOfACommand(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Run("awaited", func(t *testing.T) {
		fdstest.WantCounted(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			before := fds.Process.InUse().Others
			go func() { ended <- Run(ctx, exec.Command("sleep", "60"), time.Hour, zap.NewNop()) }()
			testkit.Poll(t, "the command runs", func() bool { return fds.Process.InUse().Others == before+fds.PerWait+fds.PerOutput })
			t.Cleanup(func() { cancel(); <-ended })
		})
	})
	t.Run("detached", func(t *testing.T) {
		fdstest.WantCounted(t, func(t *testing.T) {
			if err := Detach(exec.Command("sleep", "3"), zap.NewNop()); err != nil {
				t.Fatal(err)
			}
		})
	})
}
