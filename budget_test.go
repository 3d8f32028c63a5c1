package tcplock

import (
	"context"
	"os"
	"testing"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// The budget counts at least as many descriptors as processes and commands really have, and
// none when they have ended.
func TestDescriptorsOfAProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("found no /proc/self/fd")
		}
		return len(entries)
	}
	const n = 10
	for _, kind := range []struct {
		name  string
		start func(t *testing.T)
	}{
		{"service", func(t *testing.T) {
			p, err := startProcess(&Service{Command: "sleep", Args: []string{"60"}}, processID{"l", 1, ""}, zap.NewNop)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.kill(); <-p.exited(); p.release() })
		}},
		{"command", func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			step := ExecStep{Command: "sleep", Args: []string{"60"}, logger: zap.NewNop()}
			ended := make(chan error, 1)
			before := fds.Process.Taken()
			go func() { ended <- step.Run(ctx, hook.Moment{}) }()
			testkit.Poll(t, "the command runs", func() bool { return fds.Process.Taken() == before+fds.PerWait+fds.PerOutput })
			t.Cleanup(func() { cancel(); <-ended })
		}},
		{"detached command", func(t *testing.T) {
			step := ExecStep{Command: "sleep", Args: []string{"3"}, Detach: true, logger: zap.NewNop()}
			if err := step.Run(context.Background(), hook.Moment{}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Cleanup(SetDescriptorLimit(1024))
			before := open()
			t.Run("running", func(t *testing.T) {
				for range n {
					kind.start(t)
				}
				real, counted := open()-before, fds.Process.Taken()
				if real > counted || counted == 0 {
					t.Errorf("found %d descriptors for %d of them, and %d in the budget", real, n, counted)
				}
			})
			testkit.Poll(t, "the budget counts nothing any more", func() bool { return Budget() == "" })
		})
	}
}
