package plan

import (
	"encoding/json"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// mostSlots is more than a lock may have.
const mostSlots = 1_000_000

// about reports whether two figures are equal, except for rounding.
func about(a, b, within float64) bool {
	return math.Abs(a-b) <= within*max(math.Abs(a), math.Abs(b), 1e-300)
}

// exact computes the states of a lock from their definition, in exact fractions. State n is the
// share of the time in which n connections hold a slot or wait.
func exact(load *big.Rat, slots, maxWaiting int) []*big.Rat {
	states, sum := []*big.Rat{big.NewRat(1, 1)}, big.NewRat(1, 1)
	for n := 1; n <= slots+maxWaiting; n++ {
		next := new(big.Rat).Mul(states[n-1], load)
		next.Quo(next, big.NewRat(int64(min(n, slots)), 1))
		states = append(states, next)
		sum.Add(sum, next)
	}
	for _, s := range states {
		s.Quo(s, sum)
	}
	return states
}

func float(r *big.Rat) float64 { f, _ := r.Float64(); return f }

// exactWait computes the share that must wait (Erlang C) from its definition. The line has no limit.
func exactWait(load *big.Rat, slots int) float64 {
	states := exact(load, slots, 0) // without a line; with one, the last is 1 / (1 - busy) times as large
	last := new(big.Rat).Quo(states[slots], new(big.Rat).Sub(big.NewRat(1, 1), new(big.Rat).Quo(load, big.NewRat(int64(slots), 1))))
	all := new(big.Rat).Sub(big.NewRat(1, 1), states[slots])
	return float(new(big.Rat).Quo(last, all.Add(all, last)))
}

// The share that must wait, as textbooks have it.
func TestPlanTextbook(t *testing.T) {
	for _, test := range []struct {
		load  float64
		slots int
		wait  float64
	}{
		{.5, 1, 1. / 2}, // with one slot it equals the load
		{.9, 1, 9. / 10},
		{1, 2, 1. / 3},
		{2, 3, 4. / 9},
		{1.5, 2, 9. / 14},
		{3, 4, 0.5094},
		{5, 6, 0.5875},
		{10, 14, 0.1741},
	} {
		f := Plan{Rate: test.load, Hold: 1, Variability: 1, Slots: test.slots, MaxWaiting: Unlimited}.Forecast()
		if got := f.Line.MustWait; math.Abs(got-test.wait) > 0.00005 {
			t.Errorf("load %g, %d slots: found that %.5f have to wait, expected %.5f", test.load, test.slots, got, test.wait)
		}
	}
}

// For a line without a limit, the figures equal those of the definition.
func TestPlanExact(t *testing.T) {
	for _, slots := range []int{1, 2, 3, 4, 7, 16, 50, 200} {
		for _, busy := range []*big.Rat{big.NewRat(1, 100), big.NewRat(1, 2), big.NewRat(3, 4), big.NewRat(9, 10), big.NewRat(999, 1000)} {
			const hold = 2
			load := new(big.Rat).Mul(busy, big.NewRat(int64(slots), 1))
			p := Plan{Rate: float(load) / hold, Hold: hold, Variability: 1, Slots: slots, MaxWaiting: Unlimited}
			line, wait := p.Forecast().Line, exactWait(load, slots)
			mean := wait * hold / (float64(slots) - float(load))
			for what, figures := range map[string][2]float64{
				"part that waits": {line.MustWait, wait},
				"mean wait":       {line.MeanWaitSeconds, mean},
				"mean line":       {line.MeanWaiting, mean * p.Rate},
				"p99":             {line.P99WaitSeconds, max(0, hold/(float64(slots)-float(load))*math.Log(wait/.01))},
			} {
				if !about(figures[0], figures[1], 1e-9) {
					t.Errorf("%d slots, busy %s: %s: found %g, expected %g", slots, busy, what, figures[0], figures[1])
				}
			}
		}
	}
}

// The same holds for a line with a limit, whether or not the slots can serve all connections.
func TestPlanExactWithLimit(t *testing.T) {
	for _, slots := range []int{1, 3, 16} {
		for _, maxWaiting := range []int{0, 1, 2, 10, 60} {
			for _, busy := range []*big.Rat{big.NewRat(1, 100), big.NewRat(3, 4), big.NewRat(1, 1), big.NewRat(5, 4), big.NewRat(20, 1)} {
				const hold, after = 2., 1.5
				load := new(big.Rat).Mul(busy, big.NewRat(int64(slots), 1))
				states := exact(load, slots, maxWaiting)
				var mustWait, held, waiting, late float64
				for n, state := range states {
					held += float(state) * float64(min(n, slots))
					if n < slots {
						continue
					}
					waiting += float(state) * float64(n-slots)
					if n < slots+maxWaiting {
						mustWait += float(state)
						late += float(state) * atMost(n-slots, after*float64(slots)/hold)
					}
				}
				refused := float(states[slots+maxWaiting])
				p := Plan{Rate: float(load) / hold, Hold: hold, Variability: 1, Slots: slots, MaxWaiting: maxWaiting}
				f, o := p.Forecast(), p.outlook()
				for what, figures := range map[string][2]float64{
					"busy":            {f.Busy, held / float64(slots)},
					"refused":         {f.Line.Refused, refused},
					"part that waits": {f.Line.MustWait, mustWait / (1 - refused)},
					"mean line":       {f.Line.MeanWaiting, waiting},
					"mean wait":       {f.Line.MeanWaitSeconds, waiting / (p.Rate * (1 - refused))},
					"late":            {o.later(after), late},
				} {
					if !about(figures[0], figures[1], 1e-9) {
						t.Errorf("%d slots, line of %d, busy %s: %s: found %g, expected %g", slots, maxWaiting, busy, what, figures[0], figures[1])
					}
				}
			}
		}
	}
}

// atMost is the probability of at most n events in a Poisson process with this mean.
func atMost(n int, mean float64) (chance float64) {
	term := math.Exp(-mean)
	for i := 0; i <= n; i++ {
		chance += term
		term *= mean / float64(i+1)
	}
	return chance
}

// anyPlan draws a random plan of any size.
func anyPlan(t *rapid.T) Plan {
	p := Plan{
		Hold:        math.Pow(10, rapid.Float64Range(-9, 9).Draw(t, "log hold")),
		Variability: 1,
		Slots:       int(math.Pow(10, rapid.Float64Range(0, 4).Draw(t, "log slots"))),
		MaxWaiting:  Unlimited,
	}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		p.MaxWaiting = rapid.IntRange(0, 5000).Draw(t, "max waiting")
	case 1:
		p.Variability = rapid.Float64Range(0, 100).Draw(t, "variability")
	}
	busy := rapid.OneOf(rapid.Float64Range(1e-9, 3), rapid.Float64Range(.99, 1.01), rapid.Float64Range(3, 1e9)).Draw(t, "busy")
	p.Rate = busy * float64(p.Slots) / p.Hold
	return p
}

// For any plan, no figure is NaN or infinite, shares are between 0 and 1, and percentiles are in
// order and are correct.
func TestPlanFigures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		f := p.Forecast()
		if text, err := json.Marshal(f); err != nil {
			t.Fatalf("%+v: %v %s", p, err, text)
		}
		if p.Endless() != (f.Line == nil) || f.Busy < 0 || f.Busy > 1 || f.GrowthPerMinute < 0 {
			t.Fatalf("%+v: found %+v", p, f)
		}
		if f.Line == nil {
			return
		}
		l, o := *f.Line, p.outlook()
		if l.Refused < 0 || l.Refused > 1 || l.MustWait < 0 || l.MustWait > 1 || l.MeanWaitSeconds < 0 || l.MeanWaiting < 0 ||
			l.P50WaitSeconds > l.P90WaitSeconds || l.P90WaitSeconds > l.P99WaitSeconds ||
			p.MaxWaiting != Unlimited && (l.P99Waiting > p.MaxWaiting || l.MeanWaiting > float64(p.MaxWaiting)*1.000001) {
			t.Fatalf("%+v: found %+v", p, l)
		}
		for percent, wait := range map[float64]float64{50: l.P50WaitSeconds, 90: l.P90WaitSeconds, 99: l.P99WaitSeconds} {
			if got := o.later(wait) / o.admitted; wait > 0 && !about(got, 1-percent/100, 1e-6) || got > (1-percent/100)*1.000001 {
				t.Fatalf("%+v: found that %g wait longer than p%g, %g", p, got, percent, wait)
			}
		}
		if n := l.P99Waiting; o.moreWaiting(n) > 0.01 || n > 0 && o.moreWaiting(n-1) <= 0.01 {
			t.Fatalf("%+v: found p99 of the line %d", p, n)
		}
	})
}

// The mean wait, which is computed from the length of the line, is the mean of the waits.
func TestPlanMeanOfWaits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		p.MaxWaiting = max(p.MaxWaiting, rapid.IntRange(1, 200).Draw(t, "limit"))
		p.Variability = 1
		o := p.outlook()
		if o.later(0)/o.admitted < 0.01 {
			return
		}
		const steps = 20_000
		until := o.waitOf(99.9999)
		sum := -o.later(0) / 2
		for i := range steps {
			sum += o.later(until * float64(i) / steps)
		}
		mean := p.Forecast().Line.MeanWaitSeconds
		if got := sum * until / steps / o.admitted; !about(got, mean, 0.002) {
			t.Fatalf("%+v: found mean %g, expected %g", p, mean, got)
		}
	})
}

// The number of slots that SlotsFor returns is enough, and one less is not.
func TestPlanSlotsFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		p.Rate = min(p.Rate, 5000/p.Hold)
		target := p.Hold * rapid.SampledFrom([]float64{0, .01, .1, 1, 10, 1000}).Draw(t, "target")
		well := func(p Plan) bool { return p.Meets(target) }
		slots, ok := p.SlotsFor(well, mostSlots)
		p.Slots = slots
		if !ok || !well(p) {
			t.Fatalf("%+v, target %g: found %d slots, %t", p, target, slots, ok)
		}
		f := p.Forecast()
		if f.Line.Refused > 0.01 || f.Line.P99WaitSeconds > target*1.000001 {
			t.Fatalf("%+v, target %g: found %+v", p, target, f.Line)
		}
		if p.Slots--; p.Slots > 0 && well(p) {
			t.Fatalf("%+v, target %g: found %d slots to be needed, but one less is enough", p, target, slots)
		}
	})
}

// With a very high limit of the line, the figures are those without a limit.
func TestPlanLimitVanishes(t *testing.T) {
	for _, slots := range []int{1, 5, 100} {
		p := Plan{Rate: .9 * float64(slots), Hold: 1, Variability: 1, Slots: slots, MaxWaiting: Unlimited}
		want := *p.Forecast().Line
		p.MaxWaiting = 2000
		got := *p.Forecast().Line
		for what, figures := range map[string][2]float64{
			"refused":   {1 + got.Refused, 1},
			"must wait": {got.MustWait, want.MustWait},
			"mean wait": {got.MeanWaitSeconds, want.MeanWaitSeconds},
			"p50":       {got.P50WaitSeconds, want.P50WaitSeconds},
			"p90":       {got.P90WaitSeconds, want.P90WaitSeconds},
			"p99":       {got.P99WaitSeconds, want.P99WaitSeconds},
			"mean line": {got.MeanWaiting, want.MeanWaiting},
			"p99 line":  {float64(got.P99Waiting), float64(want.P99Waiting)},
		} {
			if !about(figures[0], figures[1], 1e-9) {
				t.Errorf("%d slots: %s: found %g, expected %g", slots, what, figures[0], figures[1])
			}
		}
	}
}
