package tcplock

import (
	"fmt"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
)

func init() { inside.Process = insideView{} }

// insideView shows the tests that look from outside what is in the process.
type insideView struct{}

func (insideView) Locks() (all []inside.Lock) {
	for _, l := range locks.list() {
		s := l.queue.Stats()
		all = append(all, inside.Lock{
			Name: l.name(), Slots: l.pool.slots(), Held: s.Held, Waiting: s.Waiting,
			LeftOver: int(l.leftOver.Load()), Clients: l.queue.Clients(),
		})
	}
	return all
}

func (insideView) Ending() int {
	ends.Lock()
	defer ends.Unlock()
	return len(ends.last)
}

func (insideView) Boards() (n int) {
	boards.Range(func(any, any) bool { n++; return true })
	return n
}

func (insideView) Counted() int { return int(budget.connections.Load()) }

func (insideView) Draining() int { return budget.drains.inUse() }

func (insideView) Budget() string {
	now := [...]int64{
		budget.connections.Load(), budget.services.Load(), budget.others.Load(),
		int64(budget.refusals.inUse()), int64(budget.drains.inUse()),
	}
	if now == [len(now)]int64{} {
		return ""
	}
	return fmt.Sprintf("%d connections, %d sockets to services, %d descriptors of processes and commands, %d refused, %d of them draining",
		now[0], now[1], now[2], now[3], now[4])
}

func (insideView) SetDescriptorLimit(n int64) (restore func()) {
	before := budget
	budget = newDescriptors(n)
	return func() { budget = before }
}

func (insideView) SetListenFor(d time.Duration) (restore func()) {
	before := dial.ListenFor
	dial.ListenFor = d
	return func() { dial.ListenFor = before }
}

var _ inside.View = insideView{}
