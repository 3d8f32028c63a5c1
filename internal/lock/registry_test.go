package lock

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
)

// Users enter and leave a lock from many goroutines. The lock ends only when the last has left.
func TestRegistryConcurrent(t *testing.T) {
	var all sync.WaitGroup
	var made atomic.Int64
	for range 8 {
		all.Go(func() {
			for range 2000 {
				l := locks.enter("crowded")
				if l.ctx.Err() != nil {
					t.Error("found a lock that has ended, expected one in use")
				}
				if !l.Enter() {
					t.Error("found no way into a lock in use")
				}
				l.Exit()
				if l.users.Load() == 1 {
					made.Add(1)
				}
				l.Exit()
			}
		})
	}
	all.Wait()
	for _, l := range locks.list() {
		if l.Name() == "crowded" {
			t.Errorf("found a lock with %d users, expected none", l.users.Load())
		}
	}
}

// A connection may come by a config that has ended, and whose lock has ended with it. It gets the
// lock that has the name now, and that lock ends with the connection.
func TestConnectionAfterItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		configs := NewConfigs(new(place.Layout))
		c := configs.Join("late")
		c.logTo(zap.NewNop())
		configs.Deactivate() // it has failed
		come := func() *Waiter {
			conn, _ := net.Pipe()
			return c.Enter(layer4.WrapConnection(conn, nil, zap.NewNop()))
		}
		first, second := come(), come()
		l := first.lock
		if l == c.lock || l != second.lock || l.Name() != "late" || l.ctx.Err() != nil {
			t.Errorf("found lock %s, and another one for the second connection: %v", l.Name(), l != second.lock)
		}
		first.Leave()
		second.Leave()
		if l.ctx.Err() == nil || len(locks.list()) > 0 {
			t.Errorf("found %d locks, expected none", len(locks.list()))
		}
	})
}
