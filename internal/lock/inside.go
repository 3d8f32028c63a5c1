package lock

import (
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
)

func init() { inside.Process = insideView{} }

// insideView shows black-box tests the state of the process.
type insideView struct{}

func (insideView) Locks() (all []inside.Lock) {
	for _, l := range locks.list() {
		s := l.queue.Stats()
		all = append(all, inside.Lock{
			Name: l.Name(), Slots: l.pool.Slots(), Held: s.Held, Waiting: s.Waiting,
			LeftOver: int(l.leftOver.Load()), Clients: s.Clients,
		})
	}
	return all
}

func (insideView) Ending() int { return len(locks.exits.Claims()) }

func (insideView) Budget() inside.Budget { return inside.Budget(fds.Process.InUse()) }

func (insideView) SetDescriptorLimit(n int64) (restore func()) {
	before := fds.Process.SetLimit(n)
	return func() { fds.Process.SetLimit(before) }
}

func (insideView) SetListenFor(d time.Duration) (restore func()) {
	before := dial.ListenFor
	dial.ListenFor = d
	return func() { dial.ListenFor = before }
}

func (insideView) SetLongestOutage(d time.Duration) (restore func()) {
	before := longestOutage
	longestOutage = d
	return func() { longestOutage = before }
}

var _ inside.View = insideView{}
