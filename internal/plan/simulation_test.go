package plan

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
)

// These tests compare the plan with the real queue. Clients come at random times, hold their slots
// for random times, and wait in the queue. The queue reads no clock, so years pass in a moment. The
// seeds are fixed, so the result is the same each time.

// happening is one event of a simulation.
type happening struct {
	at time.Time
	do func()
}

type happenings []happening

func (h happenings) Len() int           { return len(h) }
func (h happenings) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h happenings) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *happenings) Push(x any)        { *h = append(*h, x.(happening)) }
func (h *happenings) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// simulation is a lock and its clients.
type simulation struct {
	Plan
	holdTime func(*rand.Rand) float64 // of one client, 1 on average
	patience time.Duration            // a client that has waited so long leaves; 0: none leaves

	random *rand.Rand
	queue  *queue.Queue
	now    time.Time
	next   happenings

	// The measurements: waits in the order of admission, the others in the order of arrival.
	waits  []float64 // seconds
	found  []float64 // the length of the line that the client found
	denied []float64 // 1: the client was refused or has left; 0: it got a slot or still waits
}

// Hold times, 1 on average.
func exponential(r *rand.Rand) float64 { return -math.Log(1 - r.Float64()) }
func constant(*rand.Rand) float64      { return 1 }

// wild is short mostly and long at times, with a variability of 2.
func wild(r *rand.Rand) float64 {
	const often = .5 + .3872983346207417 // √(3/5) / 2
	if x := exponential(r); r.Float64() >= often {
		return x / (2 * (1 - often))
	} else {
		return x / (2 * often)
	}
}

func (s *simulation) in(seconds float64, do func()) {
	heap.Push(&s.next, happening{s.now.Add(time.Duration(seconds * 1e9)), do})
}

// run simulates until so many clients have come.
func (s *simulation) run(clients int) {
	s.random = rand.New(rand.NewPCG(20, 12))
	s.queue = queue.New(queue.Bounds{Limit: s.Slots, MaxWaiting: s.MaxWaiting})
	s.now = time.Unix(0, 0)
	s.in(exponential(s.random)/s.Rate, s.arrive)
	for len(s.denied) < clients {
		h := heap.Pop(&s.next).(happening)
		s.now = h.at
		h.do()
	}
}

func (s *simulation) arrive() {
	s.in(exponential(s.random)/s.Rate, s.arrive)
	s.found = append(s.found, float64(s.queue.Stats().Waiting))
	p := new(queue.Waiter)
	holds, err := s.queue.Join(p, s.now)
	s.denied = append(s.denied, 0)
	switch n := len(s.denied) - 1; {
	case errors.Is(err, queue.ErrFull):
		s.denied[n] = 1
	case holds:
		s.admit(p)
	case s.patience > 0:
		s.in(s.patience.Seconds(), func() {
			if s.queue.Leave(p) {
				s.denied[n] = 1
			}
		})
	}
}

func (s *simulation) admit(p *queue.Waiter) {
	s.waits = append(s.waits, p.Waited.Seconds())
	s.in(s.Hold*s.holdTime(s.random), func() {
		if woken := s.queue.Release(p, s.now); woken != nil {
			s.admit(woken)
		}
	})
}

// estimate returns the mean of a figure over batches of values, and its standard error. Each batch
// has consecutive values, and is long enough to be nearly independent of the others.
func estimate(all []float64, figure func(batch []float64) float64) (mean, deviation float64) {
	const batches = 25
	n := len(all) / batches
	var sum, squares float64
	for batch := range slices.Chunk(all[len(all)-batches*n:], n) {
		x := figure(batch)
		sum += x
		squares += x * x
	}
	mean = sum / batches
	return mean, math.Sqrt(max(0, squares/batches-mean*mean) / (batches - 1))
}

func meanOf(all []float64) (mean float64) {
	for _, x := range all {
		mean += x
	}
	return mean / float64(len(all))
}

func percentileOf(p float64) func([]float64) float64 {
	return func(all []float64) float64 {
		sorted := slices.Sorted(slices.Values(all))
		return sorted[int(p/100*float64(len(sorted)))]
	}
}

func positive(all []float64) float64 {
	n := 0
	for _, x := range all {
		if x > 0 {
			n++
		}
	}
	return float64(n) / float64(len(all))
}

// Where the plan is exact, it agrees with the queue to within four standard errors. The errors
// themselves must be small.
func TestPlanIsWhatTheQueueDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for name, p := range map[string]Plan{
		"1 slot":                  {Rate: .7, Hold: 1, Variability: 1, Slots: 1, MaxWaiting: Unlimited},
		"4 slots":                 {Rate: 8, Hold: .4, Variability: 1, Slots: 4, MaxWaiting: Unlimited},
		"16 slots":                {Rate: 6.2, Hold: 2, Variability: 1, Slots: 16, MaxWaiting: Unlimited},
		"4 slots, a line of 10":   {Rate: 7.5, Hold: .5, Variability: 1, Slots: 4, MaxWaiting: 10},
		"too many for 3 slots":    {Rate: 5, Hold: 1, Variability: 1, Slots: 3, MaxWaiting: 20},
		"4 slots without a line":  {Rate: 3, Hold: 1, Variability: 1, Slots: 4, MaxWaiting: 0},
		"1 slot, a place in line": {Rate: 1, Hold: 1, Variability: 1, Slots: 1, MaxWaiting: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulation{Plan: p, holdTime: exponential}
			s.run(200_000)
			f := p.Forecast()
			for what, figure := range map[string]struct {
				all  []float64
				of   func([]float64) float64
				want float64
			}{
				"refused":   {s.denied, meanOf, f.Line.Refused},
				"must wait": {s.waits, positive, f.Line.MustWait},
				"mean wait": {s.waits, meanOf, f.Line.MeanWaitSeconds},
				"p90":       {s.waits, percentileOf(90), f.Line.P90WaitSeconds},
				"p99":       {s.waits, percentileOf(99), f.Line.P99WaitSeconds},
				"mean line": {s.found, meanOf, f.Line.MeanWaiting},
			} {
				got, deviation := estimate(figure.all, figure.of)
				t.Logf("%s: plan %.4g, queue %.4g ± %.2g", what, figure.want, got, deviation)
				if math.Abs(got-figure.want) > 4*deviation+.001*figure.want || deviation > .1*figure.want {
					t.Errorf("%s: found %.4g ± %.2g, expected %.4g", what, got, deviation, figure.want)
				}
			}
			more, deviation := estimate(s.found, func(all []float64) float64 {
				n := 0
				for _, found := range all {
					if found > float64(f.Line.P99Waiting) {
						n++
					}
				}
				return float64(n) / float64(len(all))
			})
			if more > .01+4*deviation {
				t.Errorf("more than %d were in line for %.4g of the time, expected 0.01 at most", f.Line.P99Waiting, more)
			}
		})
	}
}

// For other variabilities the plan is approximate, as docs/capacity.md says.
func TestPlanApproximates(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	type span struct{ least, most float64 } // the figure of the plan divided by that of the queue
	for name, test := range map[string]struct {
		holdTime    func(*rand.Rand) float64
		variability float64
		mean, p99   span
	}{
		"constant": {constant, 0, span{.8, 1.2}, span{.8, 1.2}},
		"wild":     {wild, 2, span{.9, 1.5}, span{.75, 1.3}},
	} {
		for _, slots := range []int{1, 8} {
			for _, busy := range []float64{.7, .9} {
				t.Run(fmt.Sprintf("%s, %d slots, busy %g", name, slots, busy), func(t *testing.T) {
					p := Plan{Rate: busy * float64(slots), Hold: 1, Variability: test.variability, Slots: slots, MaxWaiting: Unlimited}
					s := simulation{Plan: p, holdTime: test.holdTime}
					s.run(200_000)
					l := p.Forecast().Line
					mean, _ := estimate(s.waits, meanOf)
					p99, _ := estimate(s.waits, percentileOf(99))
					t.Logf("mean wait: plan %.4g, queue %.4g; p99: plan %.4g, queue %.4g", l.MeanWaitSeconds, mean, l.P99WaitSeconds, p99)
					if ratio := l.MeanWaitSeconds / mean; ratio < test.mean.least || ratio > test.mean.most {
						t.Errorf("mean wait: found %.3g times that of the queue, expected %v", ratio, test.mean)
					}
					if ratio := l.P99WaitSeconds / p99; ratio < test.p99.least || ratio > test.p99.most {
						t.Errorf("p99: found %.3g times that of the queue, expected %v", ratio, test.p99)
					}
				})
			}
		}
	}
}

// With a wait_timeout, the share of clients that leave after that time is as docs/capacity.md says.
func TestPlanWaitTimeout(t *testing.T) {
	for _, busy := range []float64{.7, .9} {
		s := simulation{Plan: Plan{Rate: 4 * busy, Hold: 1, Variability: 1, Slots: 4, MaxWaiting: Unlimited}, holdTime: exponential, patience: 1500 * time.Millisecond}
		s.run(200_000)
		o := s.outlook()
		late := o.later(s.patience.Seconds())
		want := (1 - busy) * late / (1 - busy*late)
		got, deviation := estimate(s.denied, meanOf)
		t.Logf("late %.4g; plan %.4g, queue %.4g ± %.2g", late, want, got, deviation)
		if math.Abs(got-want) > 4*deviation || deviation > .1*want {
			t.Errorf("busy %g: found that %.4g ± %.2g leave, expected %.4g", busy, got, deviation, want)
		}
	}
}
