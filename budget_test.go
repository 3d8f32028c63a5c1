package tcplock

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// withBudget gives the test a budget of its own, and makes sure that nothing of it is left
// in use.
func withBudget(t *testing.T, processLimit int64) {
	t.Helper()
	restore := SetDescriptorLimit(processLimit)
	t.Cleanup(func() {
		if left := Budget(); left != "" {
			t.Errorf("the budget still counts %s, expected nothing", left)
		}
		restore()
	})
}

// fillBudget lets connections come until no more may, and returns how many came.
func fillBudget() (n int) {
	for budget.enter() {
		n++
	}
	return n
}

func emptyBudget(n int) {
	for range n {
		budget.leave()
	}
}

// The holders of a limit that was lowered keep their sockets to the service, and so does a
// lock beside it that has slots for connections that are still to come.
func TestBudgetAfterLoweredSlots(t *testing.T) {
	withBudget(t, 1024)
	var lowered, other sockets
	lowered.setSlots(400)
	other.setSlots(10)
	for range 400 {
		if !budget.enter() {
			t.Fatal("found no room for 400 holders")
		}
		lowered.open()
	}
	lowered.setSlots(1)
	n := 400 + fillBudget()
	if sockets := int64(n + 400 + 10); sockets != 1024-128 {
		t.Errorf("found room for %d connections, with %d sockets in all, expected %d sockets", n, sockets, 1024-128)
	}
	for range 399 { // as they end, others may come
		lowered.close()
		budget.leave()
	}
	n -= 399
	n += fillBudget()
	if sockets := n + 1 + 10; sockets != 1024-128 {
		t.Errorf("found room for %d connections, with %d sockets in all, expected %d sockets", n, sockets, 1024-128)
	}
	lowered.close()
	emptyBudget(n)
	lowered.setSlots(0)
	other.setSlots(0)
}

// Processes are never refused their descriptors, and the connections leave room for them:
// 33 services have more than the eighth that is left to all else.
func TestBudgetOfServices(t *testing.T) {
	withBudget(t, 1024)
	const services = 33
	var pool sockets
	pool.setSlots(services)
	var ends []func()
	for range services {
		ends = append(ends, budget.take(processDescriptors))
	}
	n := fillBudget()
	if all := n + services + services*processDescriptors; all != 1024-128 {
		t.Errorf("found %d descriptors in use, with %d connections, expected %d", all, n, 1024-128)
	}
	for _, end := range ends {
		end()
	}
	if more := fillBudget(); more != services*processDescriptors {
		t.Errorf("found room for %d more when the services had ended, expected %d", more, services*processDescriptors)
	} else {
		n += more
	}
	emptyBudget(n)
	pool.setSlots(0)
}

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
			before := budget.others.Load()
			go func() { ended <- step.Run(ctx, Moment{}) }()
			testkit.Poll(t, "the command runs", func() bool { return budget.others.Load() == before+waitDescriptors+outputDescriptors })
			t.Cleanup(func() { cancel(); <-ended })
		}},
		{"detached command", func(t *testing.T) {
			step := ExecStep{Command: "sleep", Args: []string{"3"}, Detach: true, logger: zap.NewNop()}
			if err := step.Run(context.Background(), Moment{}); err != nil {
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
				real, counted := open()-before, int(budget.others.Load())
				if real > counted || counted == 0 {
					t.Errorf("found %d descriptors for %d of them, and %d in the budget", real, n, counted)
				}
			})
			testkit.Poll(t, "the budget counts nothing any more", func() bool { return Budget() == "" })
		})
	}
}

// A refused connection keeps its seat for a moment at least. After that the one that has
// had it longest is cut for a new one, but not without end while those that were cut stay.
func TestSeats(t *testing.T) {
	s := seats{most: 2, mostCut: 1, patience: time.Hour}
	socket := func() (*clientConn, *cutConn) {
		c := new(cutConn)
		return &clientConn{socket: c}, c
	}
	enter := func(want bool) (*seat, *cutConn) {
		t.Helper()
		c, socket := socket()
		x := s.enter(c)
		if (x != nil) != want {
			t.Fatalf("found a seat %t, expected %t", x != nil, want)
		}
		return x, socket
	}
	first, firstSocket := enter(true)
	second, secondSocket := enter(true)
	enter(false) // both are new
	s.patience = 0
	third, thirdSocket := enter(true)
	if !firstSocket.cut || secondSocket.cut || thirdSocket.cut {
		t.Errorf("found cut: %t %t %t, expected the first only", firstSocket.cut, secondSocket.cut, thirdSocket.cut)
	}
	enter(false) // the first has not gone yet
	if s.leave(first) || s.inUse() != 2 {
		t.Errorf("found the seat kept, or %d in use, expected it lost and 2", s.inUse())
	}
	if !s.leave(second) || !s.leave(third) || s.inUse() != 0 || s.first != nil || s.last != nil {
		t.Errorf("found %d seats in use, or some lost, expected none", s.inUse())
	}
}

// cutConn notes that it was closed.
type cutConn struct {
	net.Conn
	cut bool
}

func (c *cutConn) Close() error {
	c.cut = true
	return nil
}
