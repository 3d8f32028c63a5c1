// Package plan forecasts how long the line of a lock will be, and the time in it.
package plan

import (
	"math"
	"sort"
)

// The plan: how long the line of a lock will be, and the time in it, from how many clients
// come and how long each holds a slot. This is the arithmetic of queueing theory;
// docs/capacity.md explains it to users.
//
// Clients come independently of each other, at one rate on average (Poisson). Time with a
// slot is random too: exponential, which gives M/M/c, or M/M/c/K with a longest line. For
// other variabilities of the hold time there is no such formula. There the time in line of
// those who have to wait is taken to be exponential still, but longer or shorter by the
// factor of Allen and Cunneen, (1 + variability²) / 2.
//
// The line's length follows from the time in it: since waiters go in the order in which
// they came, those behind one who is let in are those who came while he waited.

// Unlimited as the longest line of a plan means that the line has no limit of its own.
const Unlimited = -1

// Plan is what a lock is to cope with, and how large it is.
type Plan struct {
	Rate        float64 // connections that come, a second
	Hold        float64 // seconds with a slot, on average
	Variability float64 // of the hold time: its standard deviation by its mean; 1: exponential, 0: constant
	Slots       int
	MaxWaiting  int // how many may stand in line, or Unlimited; if limited, the variability is 1
}

// Load is the number of slots that would be busy on average if there were enough.
func (p *Plan) Load() float64 { return p.Rate * p.Hold }

// almost is how much of its slots' time a lock may need at most. With more, the line has an
// end on paper only.
const almost = 1 - 1e-6

// Endless reports whether the line grows for ever.
func (p *Plan) Endless() bool {
	return p.MaxWaiting == Unlimited && p.Load() >= almost*float64(p.Slots)
}

// Forecast is how a lock does in the long run.
type Forecast struct {
	Slots           int     `json:"slots"`
	Busy            float64 `json:"busy"`                        // how much of their time the slots have a holder, up to 1
	GrowthPerMinute float64 `json:"growth_per_minute,omitempty"` // by how much the line grows if it does so for ever
	Line            *Line   `json:"line,omitempty"`              // absent: it grows for ever
}

// Line is a line that has an end. Waits are in seconds, of those who are not refused.
type Line struct {
	Refused         float64 `json:"refused"`   // which part of those who come is refused, from 0 to 1
	MustWait        float64 `json:"must_wait"` // which part of the others has to wait at all
	MeanWaitSeconds float64 `json:"mean_wait_seconds"`
	P50WaitSeconds  float64 `json:"p50_wait_seconds"`
	P90WaitSeconds  float64 `json:"p90_wait_seconds"`
	P99WaitSeconds  float64 `json:"p99_wait_seconds"`
	MeanWaiting     float64 `json:"mean_waiting"` // how many stand in line
	P99Waiting      int     `json:"p99_waiting"`  // no more than that for 99 % of the time
}

// Forecast says how the lock will do.
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

// Meets reports whether 99 of 100 who come have a slot within so many seconds. Whoever is
// refused has none.
func (p Plan) Meets(seconds float64) bool {
	if p.Endless() {
		return false
	}
	o := p.outlook()
	return o.refused+o.later(seconds) <= 0.01
}

// SlotsFor returns the least number of slots with which the plan does well, and false if
// not even the most that a lock may have are enough. More slots never do worse.
func (p Plan) SlotsFor(well func(Plan) bool, most int) (slots int, ok bool) {
	slots = 1 + sort.Search(most, func(i int) bool {
		p.Slots = i + 1
		return well(p)
	})
	return slots, slots <= most
}

// outlook is the state of a lock as those who come find it. They find it as it is on
// average, since they come independently of it.
type outlook struct {
	Plan
	refused, admitted float64 // parts of those who come; together 1

	// With a line that has no limit of its own: the part that has to wait, how long those
	// do on average, and how much less likely a line is than one that is shorter by 1.
	wait, meanWait, shrinks float64

	// With one that has: the part that finds no slot free, i or more in line, and room;
	// for i up to MaxWaiting, the last of which is 0.
	behind []float64
}

// outlook is for a plan whose line is not endless.
//
// It counts the states up, n being those who hold or wait: of all states with up to n, full
// is the part that n itself has. Up to the number of slots that is Erlang's recursion for
// the loss of a lock without a line; the states of a line follow the same rule with a
// constant factor. It never leaves the range from 0 to 1, however many states there are.
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
	first := math.Log(full) // of the part that finds all slots busy and nobody in line
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

// later is the part of those who come that is not refused, and waits longer than t seconds.
func (o *outlook) later(t float64) (part float64) {
	if o.behind == nil {
		return o.wait * math.Exp(-t/o.meanWait)
	}
	// Whoever finds i in line waits until i + 1 have gone. As long as all slots are busy,
	// the number of those who go in a time is Poisson: around mean, and next to never far
	// from it.
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

// waitOf is what p of a hundred of those who are admitted do not exceed, in seconds.
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

// moreWaiting is the part of the time in which more than n wait.
func (o *outlook) moreWaiting(n int) float64 {
	switch {
	case o.behind == nil:
		return o.wait * math.Pow(o.shrinks, float64(n)+1)
	case n >= o.MaxWaiting:
		return 0
	}
	return o.behind[n+1] + o.refused // who is refused has found MaxWaiting of them
}

// waitingOf is the length that the line does not exceed for p of a hundred of the time.
func (o *outlook) waitingOf(p float64) int {
	return sort.Search(math.MaxInt32, func(n int) bool { return o.moreWaiting(n) <= 1-p/100 })
}

func (o *outlook) meanWaiting() (mean float64) {
	if o.behind == nil {
		return o.Rate * o.wait * o.meanWait
	}
	for n := range o.MaxWaiting {
		mean += o.moreWaiting(n)
	}
	return mean
}
