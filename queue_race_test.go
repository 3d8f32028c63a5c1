package tcplock

import (
	"cmp"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is what the users of a queue know of each other. It is guarded by a mutex of
// its own, so that what it checks was true at one instant.
type crowd struct {
	t    *testing.T
	q    *queue
	tick atomic.Int64

	mu      sync.Mutex
	ceiling int          // the highest limit in force for any who holds a slot
	slots   map[int]bool // those that are held
	working int          // holders that do not want to be alone
	alone   int
	served  []visit
}

// longestLine is short enough for some to be refused.
const longestLine = 16

// visit is a place that was granted a slot, with the ticks at which its Join was called
// and had returned.
type visit struct {
	number         uint64
	called, joined int64
}

// Many at once join, leave, release, want to be alone and give that up, while the number
// of slots changes and pauses come and go. At no instant are there more holders than
// slots, or two in one, or anybody at work beside one that is alone; who called after
// another had joined is served after it; and in the end nobody is left over.
func TestQueueConcurrent(t *testing.T) {
	const people, visits, most = 32, 200, 6 // slots
	synctest.Test(t, func(t *testing.T) {   // sees it if all wait for ever
		c := &crowd{t: t, q: newQueue(most, longestLine), ceiling: most, slots: make(map[int]bool)}
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
				limit = c.resize(limit, 1+random.IntN(most))
				c.q.Pause()
				dawdle(random)
				c.wake(c.q.Resume(time.Now())...)
				dawdle(random)
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

func (c *crowd) wake(places ...*place) {
	for _, p := range places {
		if p != nil {
			select {
			case p.owner.(chan struct{}) <- struct{}{}:
			default: // is awake already
			}
		}
	}
}

func (c *crowd) visit(random *rand.Rand) {
	called := make(chan struct{}, 1)
	p := &place{owner: called}
	v := visit{called: c.tick.Add(1)}
	holds, err := c.q.Join(p, time.Now())
	v.joined = c.tick.Add(1)
	if err != nil {
		return
	}
	if !holds && random.IntN(8) == 0 {
		dawdle(random)
		if c.q.Leave(p) {
			return
		}
	}
	for c.q.Look(p).state == placeWaiting {
		<-called
	}
	granted := c.q.Look(p)
	slot := granted.slot
	v.number = granted.number

	c.check(func() {
		if c.slots[slot] {
			c.t.Errorf("found slot %d held twice", slot)
		}
		c.slots[slot] = true
		c.served = append(c.served, v)
		c.working++
	})
	dawdle(random)
	if random.IntN(16) == 0 {
		c.seclude(p, random)
	}
	c.check(func() {
		delete(c.slots, slot)
		c.working--
	})
	c.wake(c.q.Release(p, time.Now()))
}

func (c *crowd) seclude(p *place, random *rand.Rand) {
	called := p.owner.(chan struct{})
	c.check(func() { c.working-- })
	c.wake(c.q.Seclude(p))
	if random.IntN(2) == 0 {
		for !c.q.Alone(p) {
			<-called
		}
		c.check(func() { c.alone++ })
		dawdle(random)
		c.check(func() { c.alone-- })
	}
	woken, ok := c.q.Include(p, time.Now())
	for ; !ok; woken, ok = c.q.Include(p, time.Now()) {
		<-called
	}
	c.check(func() { c.working++ })
	c.wake(woken...)
}

// check makes a change and looks whether all is well before and after it.
func (c *crowd) check(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 2 {
		if len(c.slots) > c.ceiling {
			c.t.Errorf("found %d holders of %d slots", len(c.slots), c.ceiling)
		}
		if c.alone > 1 || c.alone == 1 && c.working > 0 {
			c.t.Errorf("found %d alone and %d at work", c.alone, c.working)
		}
		change()
		change = func() {}
	}
}

// resize changes the limit and returns the new one. The ceiling is raised before, and
// lowered when those who came under the old limit have gone.
func (c *crowd) resize(from, to int) int {
	c.check(func() { c.ceiling = max(from, to) })
	c.wake(c.q.Resize(to, longestLine, time.Now())...)
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
	if n := s.Total; n.Joined != uint64(joined) || n.Granted != uint64(len(c.served)) || n.Joined != n.Refused+n.Left+n.Granted {
		c.t.Errorf("found totals %+v, expected %d joined and %d granted", n, joined, len(c.served))
	}
	if s.Total.Left == 0 || s.Total.Refused == 0 {
		c.t.Errorf("found totals %+v, expected some to have left and some to be refused", s.Total)
	}
	slices.SortFunc(c.served, func(a, b visit) int { return cmp.Compare(a.number, b.number) })
	earliest := int64(math.MaxInt64) // at which one that was served later had joined
	for i, v := range slices.Backward(c.served) {
		if v.number != uint64(i+1) {
			c.t.Errorf("found number %d, expected %d", v.number, i+1)
		}
		if v.called > earliest {
			c.t.Errorf("found number %d to be served before one that had joined before it came", v.number)
		}
		earliest = min(earliest, v.joined)
	}
}
