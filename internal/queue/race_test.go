package queue

import (
	"cmp"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is what the users of a queue know of each other. A mutex of its own guards it, so that what
// it checks was true at one instant.
type crowd struct {
	t    *testing.T
	q    *Queue
	tick atomic.Int64

	mu      sync.Mutex
	ceiling int               // the highest limit in force for any holder
	slots   map[int]*Waiter   // those that are held
	clients map[ClientKey]int // how many slots each holds
	out     int               // the slot that is out of service and vacant
	working int               // holders at the service without exclusive access
	wedged  int               // of these, those that have asked for it
	alone   int
	astray  int // of these, those that are at the service
	grants  []grant
}

// longestLine is short enough for some to be refused, and so is longestOfClient. No
// client ever has more slots than share.
const (
	longestLine     = 16
	longestOfClient = 6
	share           = 3
)

// grant is one grant of a slot, with the ticks at which the waiter's Join was called and
// had returned.
type grant struct {
	number         uint64
	called, joined int64
	kind           kind
	again          bool // the waiter had been granted a slot before
}

// kind has what must be equal for two waiters to be served in the order in which they came.
type kind struct {
	client   ClientKey
	priority int
}

// Many goroutines join, leave, release, requeue, ask for exclusive access and give it up at once.
// Meanwhile the number of slots and the bounds of clients change, slots go out of service, and
// pauses come and go. At no instant are there more holders than slots, two holders in one slot,
// more holders of a client than its share, or a holder in a slot out of service or beside exclusive
// access. A waiter that joined after another of its client and priority is served after it. In the
// end no waiter is left.
func TestConcurrent(t *testing.T) {
	const people, visits, most = 32, 200, 6 // slots
	synctest.Test(t, func(t *testing.T) {   // sees it if all wait for ever
		c := &crowd{t: t, q: New(Bounds{}), slots: make(map[int]*Waiter), clients: make(map[ClientKey]int)}
		c.resize(0, most, share)
		var visitors, warden sync.WaitGroup
		for i := range people {
			visitors.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 0))
				for range visits {
					c.visit(random)
				}
			})
		}
		var over atomic.Bool
		warden.Go(func() {
			random := rand.New(rand.NewPCG(people, 0))
			for limit := most; !over.Load(); {
				limit = c.resize(limit, 1+random.IntN(most), 1+random.IntN(share))
				c.q.Pause()
				dawdle(random)
				c.wake(c.q.Resume(time.Now())...)
				dawdle(random)
				c.takeOut(1+random.IntN(most), random)
			}
		})
		visitors.Wait()
		over.Store(true)
		warden.Wait()
		c.checkEnd(people * visits)
	})
}

func dawdle(random *rand.Rand) {
	for range random.IntN(20) {
		runtime.Gosched()
	}
}

func (c *crowd) wake(places ...*Waiter) {
	for _, p := range places {
		if p != nil {
			select {
			case p.Owner.(chan struct{}) <- struct{}{}:
			default: // is awake already
			}
		}
	}
}

func (c *crowd) visit(random *rand.Rand) {
	called := make(chan struct{}, 1)
	p := &Waiter{Owner: called, Client: ClientKey(random.IntN(6)), Priority: random.IntN(3)}
	g := grant{called: c.tick.Add(1), kind: kind{p.Client, p.Priority}}
	holds, err := c.q.Join(p, time.Now())
	g.joined = c.tick.Add(1)
	if err != nil {
		return
	}
	if !holds && random.IntN(8) == 0 {
		dawdle(random)
		if c.q.Leave(p) {
			return
		}
	}
	for {
		for c.q.Load(p).State == Waiting {
			<-called
		}
		granted := c.q.Load(p)
		g.number = granted.Number
		c.enter(p, granted.Slot, g)
		dawdle(random)
		if random.IntN(8) > 0 {
			if random.IntN(16) == 0 {
				c.beginExclusive(p, random)
			}
			c.exit(p, granted.Slot)
			c.wake(c.q.Release(p, time.Now()))
			return
		}
		c.exit(p, granted.Slot)
		c.wake(c.q.Requeue(p, time.Now(), 0))
		g.again = true
	}
}

func (c *crowd) enter(p *Waiter, slot int, g grant) {
	c.check(func() {
		if c.slots[slot] != nil {
			c.t.Errorf("found slot %d held twice", slot)
		}
		if slot == c.out {
			c.t.Errorf("found slot %d held while it was out of service", slot)
		}
		if c.clients[p.Client]++; p.Client != 0 && c.clients[p.Client] > share {
			c.t.Errorf("found %d slots of one client", c.clients[p.Client])
		}
		c.slots[slot] = p
		c.working++
		c.grants = append(c.grants, g)
	})
}

func (c *crowd) exit(p *Waiter, slot int) {
	c.check(func() {
		delete(c.slots, slot)
		c.clients[p.Client]--
		c.working--
	})
}

// takeOut takes a slot out of service for a while.
func (c *crowd) takeOut(slot int, random *rand.Rand) {
	if c.q.Out(slot) {
		c.check(func() {
			if c.slots[slot] != nil {
				c.t.Errorf("found slot %d held, expected it vacant", slot)
			}
			c.out = slot
		})
	}
	dawdle(random)
	c.check(func() { c.out = 0 })
	c.wake(c.q.In(slot, time.Now()))
}

func (c *crowd) beginExclusive(p *Waiter, random *rand.Rand) {
	called := p.Owner.(chan struct{})
	atService := random.IntN(2) == 0
	if atService {
		c.check(func() { c.wedged++ })
	} else {
		c.check(func() { c.working-- })
	}
	c.wake(c.q.BeginExclusive(p, atService))
	if random.IntN(2) == 0 {
		for !c.q.IsExclusive(p) {
			<-called
		}
		c.check(func() { c.beAlone(atService, 1) })
		dawdle(random)
		c.check(func() { c.beAlone(atService, -1) })
	}
	woken, ok := c.q.EndExclusive(p, time.Now())
	for ; !ok; woken, ok = c.q.EndExclusive(p, time.Now()) {
		<-called
	}
	if atService {
		c.check(func() { c.wedged-- })
	} else {
		c.check(func() { c.working++ })
	}
	c.wake(woken...)
}

// beAlone begins or ends the time in which a waiter has exclusive access. One that is at the service may be
// so beside others that are wedged there like itself.
func (c *crowd) beAlone(atService bool, n int) {
	if atService {
		c.working -= n
		c.wedged -= n
		c.astray += n
	}
	c.alone += n
}

// check makes a change, and checks the crowd before and after it.
func (c *crowd) check(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 2 {
		if len(c.slots) > c.ceiling {
			c.t.Errorf("found %d holders of %d slots", len(c.slots), c.ceiling)
		}
		if others := c.working - c.wedged*c.astray; c.alone > 1 || c.alone == 1 && others > 0 {
			c.t.Errorf("found %d alone and %d at work", c.alone, others)
		}
		change()
		change = func() {}
	}
}

// resize changes the bounds and returns the new limit. The ceiling is raised before, and lowered
// when the holders under the old limit have gone.
func (c *crowd) resize(from, to, perClient int) int {
	c.check(func() { c.ceiling = max(from, to) })
	c.wake(c.q.Set(Bounds{to, longestLine, perClient, longestOfClient, time.Duration(perClient % 2)}, time.Now())...)
	for c.q.Stats().Held > to {
		runtime.Gosched()
	}
	c.check(func() { c.ceiling = to })
	return to
}

func (c *crowd) checkEnd(joined int) {
	checkInvariants(c.t, c.q)
	s := c.q.Stats()
	if s.Held != 0 || s.Waiting != 0 {
		c.t.Errorf("found %d holding and %d waiting in the end, expected none", s.Held, s.Waiting)
	}
	served := 0
	for _, g := range c.grants {
		if !g.again {
			served++
		}
	}
	if n := s.Total; n.Joined != uint64(joined) || n.Granted != uint64(served) || n.Joined != n.Refused+n.Left+n.Granted {
		c.t.Errorf("found totals %+v, expected %d joined and %d granted", n, joined, served)
	}
	if s.Total.Left == 0 || s.Total.Refused == 0 || served == len(c.grants) {
		c.t.Errorf("found totals %+v and %d grants, expected some to have left, to be refused and to be put back", s.Total, len(c.grants))
	}
	slices.SortFunc(c.grants, func(a, b grant) int { return cmp.Compare(a.number, b.number) })
	earliest := make(map[kind]int64) // at which one that was served later had joined
	for i, g := range slices.Backward(c.grants) {
		if g.number != uint64(i+1) {
			c.t.Errorf("found number %d, expected %d", g.number, i+1)
		}
		if g.again {
			continue
		}
		if first, ok := earliest[g.kind]; !ok || g.joined < first {
			earliest[g.kind] = g.joined
		}
		if g.called > earliest[g.kind] {
			c.t.Errorf("found number %d to be served before one that had joined before it came", g.number)
		}
	}
}
