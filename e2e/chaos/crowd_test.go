//go:build chaos && linux

package chaos

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// crowd has the clients of one lock.
type crowd struct {
	lock   *arenaLock
	index  int
	far    *farSide // nil: the clients use loopback
	random *rand.Rand
	record *records
	born   *atomic.Int64 // the number of clients so far, in all rounds
	there  atomic.Int64
	all    sync.WaitGroup
}

const crowded = 100 // the most clients at once, except in floods

// come starts clients until ctx is done: one at a time at random intervals, and now and then more at
// once than the line takes.
func (c *crowd) come(ctx context.Context) {
	for ctx.Err() == nil {
		n := 1
		if c.random.IntN(200) == 0 {
			n = 2*c.lock.waiting + 10
		}
		for range n {
			c.one()
		}
		interval := time.Duration(c.random.ExpFloat64() * float64(c.lock.pause))
		select {
		case <-ctx.Done():
		case <-time.After(min(interval, 10*c.lock.pause)):
		}
		for c.there.Load() > crowded && ctx.Err() == nil {
			time.Sleep(c.lock.pause)
		}
	}
}

// one starts one client.
func (c *crowd) one() *client {
	n := int(c.born.Add(1))
	cl := c.lock.script(c.random, n)
	cl.addr = c.address(n)
	cl.to = c.lock.listen[c.random.IntN(len(c.lock.listen))]
	c.record.note(func() { c.record.clients[cl.addr] = cl })
	c.there.Add(1)
	c.all.Go(func() {
		cl.run(c.far, c.lock.budget())
		c.there.Add(-1)
	})
	return cl
}

// address returns an address that no other client has or had. (In a run of an hour addresses are used
// again, but long after their first clients have gone.)
func (c *crowd) address(n int) netip.AddrPort {
	port := uint16(1024 + n%60000)
	switch {
	case c.far != nil:
		return netip.AddrPortFrom(netip.MustParseAddr(farAddress), port)
	case c.lock.hosts > 0:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(c.index), byte(1 + c.random.IntN(c.lock.hosts))}), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(2 + n/60000%200), byte(c.index), 1}), port)
}
