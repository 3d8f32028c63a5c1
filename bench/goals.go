package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// goal is a bound that the design sets for a ratio, an amount or a count.
type goal struct {
	What      string  `json:"what"`
	Reference string  `json:"reference,omitempty"` // the target of the ratio; empty: it is an amount
	Unit      string  `json:"unit,omitempty"`      // of an amount; empty: it is a count
	AtLeast   bool    `json:"at_least"`            // whether Bound is a minimum, else a maximum
	Bound     float64 `json:"bound"`
	Noisy     bool    `json:"noisy,omitempty"` // figures within the noise count as the same
	Measured  float64 `json:"measured"`
	Lowest    float64 `json:"lowest"` // of all rounds
	Highest   float64 `json:"highest"`
	Met       string  `json:"met"`
}

// met tells whether a goal is met: "yes", "NO", or "same", that is within the noise. Of two servers that
// are equally fast, one reaches the other in fewer than two of seven rounds only in 6 of 100 runs.
func (g *goal) met(rounds []float64) string {
	holds := func(v float64) bool { return v == g.Bound || g.AtLeast == (v > g.Bound) }
	reached := 0
	for _, v := range rounds {
		if holds(v) {
			reached++
		}
	}
	switch {
	case holds(g.Measured):
		return "yes"
	case g.Noisy && 4*reached >= len(rounds):
		return "same"
	}
	return "NO"
}

// findings are all results.
type findings []*result

func (f findings) named(name string) *result {
	for _, r := range f {
		if r.Name == name && r.Missing == "" {
			return r
		}
	}
	return nil
}

// goals compares the results with the goals. It leaves out goals without a measurement.
func (f findings) goals(s *settings) (goals []goal) {
	ratio := func(what, name string, target server, quantity int, bound float64, reference string) {
		if r := f.named(name); r != nil {
			goals = appendGoal(goals, goal{What: what, Reference: reference, AtLeast: r.Quantities[quantity].More, Bound: bound},
				r.of(target.name).ratios(r.of(reference), quantity))
		}
	}
	notSlower := func(what, name string, target server, references ...string) {
		for _, reference := range references {
			if r := f.named(name); r != nil {
				goals = appendGoal(goals, goal{What: what, Reference: reference, AtLeast: true, Bound: 1, Noisy: true},
					r.of(target.name).ratios(r.of(reference), 0))
			}
		}
	}
	fastest := haproxyOneThread.name
	ratio("short connections, 1 slot, linger 0", "short-1", lockLinger0, 0, 1.05, fastest)
	ratio("short connections, 1 slot, linger 0", "short-1", lockLinger0, 0, 1.7, haproxyDefault.name)
	ratio("short connections, 1 slot, default settings", "short-1", lockDefault, 0, 0.80, fastest)
	ratio("short connections, 16 slots, linger 0", "short-16", lockLinger0, 0, 0.90, fastest)
	handOffAt := func(n int) string { return fmt.Sprintf("handoff-%d", n) }
	shortest, middle, longest := s.lines[0], s.lines[len(s.lines)/2], s.waiters()
	ratio(fmt.Sprintf("hand-off p50, linger 0, waiters: %d", middle), handOffAt(middle), lockLinger0, 0, 0.95, fastest)
	ratio(fmt.Sprintf("hand-off p99, linger 0, waiters: %d", middle), handOffAt(middle), lockLinger0, 1, 1.1, fastest)
	if few, many := f.named(handOffAt(shortest)), f.named(handOffAt(longest)); few != nil && many != nil {
		goals = appendGoal(goals, goal{
			What:      fmt.Sprintf("hand-off p50, linger 0, waiters: %d", longest),
			Reference: waitersTarget(shortest),
			Bound:     1.1,
		}, many.of(lockLinger0.name).ratios(few.of(lockLinger0.name), 0))
	}
	for _, n := range s.memory {
		name := fmt.Sprintf("memory-%d", n)
		ratio(fmt.Sprintf("memory for each of %d waiters", n), name, lockDefault, 0, 0.30, fastest)
		if r := f.named(name); r != nil {
			goals = appendGoal(goals, goal{What: fmt.Sprintf("memory for each of %d waiters", n), Unit: "KiB", Bound: 2}, r.of(lockDefault.name).values(0))
		}
	}
	ratio("bulk, to the client", "bulk-down", lockDefault, 0, 1.3, bareCaddy.name)
	ratio("bulk, to the service", "bulk-up", lockDefault, 0, 1.3, bareCaddy.name)
	notSlower("short connections by way of proxy, 1 slot", "short-1", proxyLinger0, proxyLinger0.asBefore().name)
	notSlower("short connections by way of proxy, 16 slots", "short-16", proxyLinger0, proxyLinger0.asBefore().name)
	for _, name := range []string{"libreoffice", "pgbench", "curl-1", "curl-4"} {
		notSlower("real work, "+name+", linger 0", "real-"+name, lockLinger0, haproxies...)
		notSlower("real work, "+name+", default settings", "real-"+name, lockDefault, haproxies...)
	}
	return append(goals, f.otherGoals(s)...)
}

// otherGoals are those of the queue alone and of reloads.
func (f findings) otherGoals(s *settings) (goals []goal) {
	if r := f.named("queue"); r != nil {
		goals = appendGoal(goals, goal{What: "queue: acquire and release, uncontended", Reference: semaphoreName, Bound: 1},
			r.of(queueName).ratios(r.of(semaphoreName), 0))
		goals = appendGoal(goals, goal{What: "queue: allocations of that"}, r.of(queueName).values(1))
	}
	if r := f.named("reload"); r != nil {
		goals = appendGoal(goals, goal{What: "waiters lost by reloads"}, r.of(waitersTarget(s.waiters())).values(2))
	}
	if r := f.named("reload-lost"); r != nil {
		goals = appendGoal(goals, goal{What: "connections lost by reloads, keep/"}, r.of(lockDefault.name).values(0))
		goals = appendGoal(goals, goal{What: "connections lost by reloads, plain address", Reference: bareCaddy.name, Bound: 0.1},
			[]float64{mean(r.of(proxyDefault.name).values(0)) / mean(r.of(bareCaddy.name).values(0))})
	}
	return goals
}

func appendGoal(goals []goal, g goal, rounds []float64) []goal {
	if len(rounds) == 0 {
		return goals
	}
	g.Measured, g.Lowest, g.Highest = median(rounds), slices.Min(rounds), slices.Max(rounds)
	if g.Reference == "" && g.Unit == "" { // a count: it must be met in each round
		g.Measured = g.Highest
	}
	if math.IsNaN(g.Measured) || math.IsInf(g.Measured, 0) {
		return goals
	}
	g.Met = g.met(rounds)
	return append(goals, g)
}

func printGoals(out io.Writer, goals []goal) {
	fmt.Fprintf(out, "\nGoals: the median of the rounds, the lowest and the highest\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tgoal\tmeasured\tfrom .. to\tmet")
	for _, g := range goals {
		bound := "<= " + number(g.Bound)
		if g.AtLeast {
			bound = ">= " + number(g.Bound)
		}
		if g.Reference != "" {
			bound += " x " + g.Reference
		}
		if g.Unit != "" {
			bound += " " + g.Unit
		}
		fmt.Fprintf(w, "  %s\t%s\t%.3f\t%.3f .. %.3f\t%s\n", g.What, bound, g.Measured, g.Lowest, g.Highest, g.Met)
	}
	w.Flush()
}
