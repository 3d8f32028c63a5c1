// Package plan forecasts how long the line of a lock will be, and how long connections will wait.
//
// It computes this from how many clients come and how long each holds a slot, by the formulas of
// queueing theory. docs/capacity.md explains them to users.
//
// Clients come independently of each other, at a constant rate on average (Poisson). The hold time
// is random too. If it is exponential, the model is M/M/c, or M/M/c/K if the line has a limit. For
// other variabilities of the hold time there is no such formula. There the wait of a connection that
// must wait is still taken to be exponential, but multiplied by the factor of Allen and Cunneen,
// (1 + variability²) / 2.
//
// The length of the line follows from the wait, since the line is first in, first out: the
// connections behind the one that gets a slot are those that came during its wait.
package plan

import (
	"math"
	"sort"
)

// Unlimited as Plan.MaxWaiting means that the line has no limit.
const Unlimited = -1

// Plan describes a lock and its load.
type Plan struct {
	Rate        float64 // connections that come, per second
	Hold        float64 // seconds with a slot, on average
	Variability float64 // of the hold time: standard deviation / mean; 1: exponential, 0: constant
	Slots       int
	MaxWaiting  int // how many may wait, or Unlimited; if limited, Variability must be 1
}

// Load is the number of slots that would be busy on average if there were enough slots.
func (p *Plan) Load() float64 { return p.Rate * p.Hold }

// almost is the highest utilization at which the line counts as finite. Above it the line has an
// end in theory, but is far too long in practice.
const almost = 1 - 1e-6

// Endless reports whether the line grows without end.
func (p *Plan) Endless() bool {
	return p.MaxWaiting == Unlimited && p.Load() >= almost*float64(p.Slots)
}

// Forecast is the state of a lock in the long run.
type Forecast struct {
	Slots           int     `json:"slots"`
	Busy            float64 `json:"busy"`                        // the share of time in which a slot has a holder, 0 to 1
	GrowthPerMinute float64 `json:"growth_per_minute,omitempty"` // connections by which an endless line grows
	Line            *Line   `json:"line,omitempty"`              // absent: the line grows without end
}

// Line describes a line that does not grow without end. The waits are those of connections that are
// not refused.
type Line struct {
	Refused         float64 `json:"refused"`   // the share of all connections that is refused, 0 to 1
	MustWait        float64 `json:"must_wait"` // the share of the others that must wait at all, 0 to 1
	MeanWaitSeconds float64 `json:"mean_wait_seconds"`
	P50WaitSeconds  float64 `json:"p50_wait_seconds"`
	P90WaitSeconds  float64 `json:"p90_wait_seconds"`
	P99WaitSeconds  float64 `json:"p99_wait_seconds"`
	MeanWaiting     float64 `json:"mean_waiting"` // the length of the line
	P99Waiting      int     `json:"p99_waiting"`  // the line is no longer than this for 99 % of the time
}

// Forecast computes the state of the lock in the long run.
func (p Plan) Forecast() Forecast {
	f := Forecast{Slots: p.Slots, Busy: 1}
	if p.Endless() {
		f.GrowthPerMinute = max(0, 60*(p.Rate-float64(p.Slots)/p.Hold))
		return f
	}
	o := p.outlook()
	f.Busy = min(1, p.Load()/float64(p.Slots)*o.admitted)
	line := &Line{
		Refused:        o.refused,
		MustWait:       min(1, o.later(0)/o.admitted),
		P50WaitSeconds: o.waitOf(50),
		P90WaitSeconds: o.waitOf(90),
		P99WaitSeconds: o.waitOf(99),
		MeanWaiting:    o.meanWaiting(),
		P99Waiting:     o.waitingOf(99),
	}
	line.MeanWaitSeconds = line.MeanWaiting / (p.Rate * o.admitted) // Little's law
	f.Line = line
	return f
}

// Meets reports whether at least 99 of 100 connections get a slot within so many seconds. A refused
// connection does not.
func (p Plan) Meets(seconds float64) bool {
	if p.Endless() {
		return false
	}
	o := p.outlook()
	return o.refused+o.later(seconds) <= 0.01
}

// SlotsFor returns the smallest number of slots for which well returns true. It returns false if
// even most slots are too few. well must not become false with more slots.
func (p Plan) SlotsFor(well func(Plan) bool, most int) (slots int, ok bool) {
	slots = 1 + sort.Search(most, func(i int) bool {
		p.Slots = i + 1
		return well(p)
	})
	return slots, slots <= most
}

// outlook is the state of a lock as a new connection finds it. That is the average state, since
// connections come independently of the state.
type outlook struct {
	Plan
	refused, admitted float64 // shares of all connections; together 1

	// For a line without a limit: the share that must wait, the mean wait of these in seconds,
	// and the probability of a length, divided by that of the length before.
	wait, meanWait, shrinks float64

	// For a line with a limit: behind[i] is the share that finds no free slot, at least i in line,
	// and room in the line. i goes up to MaxWaiting, for which it is 0.
	behind []float64
}

// outlook computes the state for a plan whose line is not endless.
//
// State n is that n connections hold a slot or wait. The loop goes up from n = 1. full is the
// probability of state n, divided by that of all states up to n. Up to the number of slots this is
// Erlang's recursion for the loss of a lock without a line. The states of the line follow the same
// rule, with a constant factor. So each number stays between 0 and 1, however many states there are.
func (p Plan) outlook() outlook {
	o := outlook{Plan: p}
	full, load := 1.0, p.Load()
	for n := 1.0; n <= float64(p.Slots); n++ {
		o.admitted = n / (n + load*full)
		full = load * full / (n + load*full)
	}
	o.refused = full
	busy := load / float64(p.Slots)
	if p.MaxWaiting == Unlimited {
		o.refused, o.admitted = 0, 1
		o.wait = full / (1 - busy*(1-full)) // Erlang C
		o.meanWait = (1 + p.Variability*p.Variability) / 2 * p.Hold / (float64(p.Slots) - load)
		o.shrinks = p.Rate * o.meanWait / (1 + p.Rate*o.meanWait)
		return o
	}
	first := math.Log(full) // log of the share that finds all slots busy and the line empty
	for range p.MaxWaiting {
		o.admitted = 1 / (1 + busy*full)
		first -= math.Log1p(busy * full)
		full = busy * full / (1 + busy*full)
	}
	o.refused = full
	o.behind = make([]float64, p.MaxWaiting+1)
	for i := p.MaxWaiting - 1; i >= 0; i-- {
		o.behind[i] = o.behind[i+1] + math.Exp(first+float64(i)*math.Log(busy))
	}
	return o
}

// later is the share of all connections that is not refused and waits longer than t seconds.
func (o *outlook) later(t float64) (part float64) {
	if o.behind == nil {
		return o.wait * math.Exp(-t/o.meanWait)
	}
	// A connection that finds i in line waits until i + 1 slots came free. While all slots are
	// busy, the number that come free in a time is Poisson. Terms far from the mean add nothing,
	// so the sum starts at the mean and stops on each side once a term is below never.
	const never = 1e-20
	mean := t * float64(o.Slots) / o.Hold
	if mean == 0 {
		return o.behind[0]
	}
	middle := min(math.Floor(mean), float64(o.MaxWaiting))
	gamma, _ := math.Lgamma(middle + 1)
	chance := math.Exp(middle*math.Log(mean) - mean - gamma)
	for gone, c := middle, chance; gone >= 0 && c > never; gone-- {
		part += c * o.behind[int(gone)]
		c *= gone / mean
	}
	for gone, c := middle+1, chance; gone < float64(o.MaxWaiting); gone++ {
		if c *= mean / gone; c < never {
			break
		}
		part += c * o.behind[int(gone)]
	}
	return part
}

// waitOf is the pth percentile of the wait of admitted connections, in seconds.
func (o *outlook) waitOf(p float64) float64 {
	others := (1 - p/100) * o.admitted
	if o.later(0) <= others {
		return 0
	}
	low, high := 0.0, o.Hold
	for o.later(high) > others {
		low, high = high, 2*high
	}
	for range 50 {
		if middle := (low + high) / 2; o.later(middle) > others {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

// moreWaiting is the share of the time in which more than n connections wait.
func (o *outlook) moreWaiting(n int) float64 {
	switch {
	case o.behind == nil:
		return o.wait * math.Pow(o.shrinks, float64(n)+1)
	case n >= o.MaxWaiting:
		return 0
	}
	return o.behind[n+1] + o.refused // a refused connection has found MaxWaiting in line
}

// waitingOf is the length that the line does not exceed for p percent of the time.
func (o *outlook) waitingOf(p float64) int {
	return sort.Search(math.MaxInt32, func(n int) bool { return o.moreWaiting(n) <= 1-p/100 })
}

// meanWaiting is the mean length of the line.
func (o *outlook) meanWaiting() (mean float64) {
	if o.behind == nil {
		return o.Rate * o.wait * o.meanWait
	}
	for n := range o.MaxWaiting {
		mean += o.moreWaiting(n)
	}
	return mean
}
