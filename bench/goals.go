package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// goal is a bound that the design sets for a ratio or a count.
type goal struct {
	What      string  `json:"what"`
	Reference string  `json:"reference,omitempty"` // the target of the ratio; empty: it is a count
	AtLeast   bool    `json:"at_least"`            // whether Bound is a minimum, else a maximum
	Bound     float64 `json:"bound"`
	Measured  float64 `json:"measured"`
	Lowest    float64 `json:"lowest"` // of all rounds
	Highest   float64 `json:"highest"`
}

func (g *goal) met() bool { return g.AtLeast == (g.Measured > g.Bound) || g.Measured == g.Bound }

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
func (f findings) goals(lines []int) (goals []goal) {
	ratio := func(what, name, target string, quantity int, bound float64) {
		r := f.named(name)
		if r == nil {
			return
		}
		for _, reference := range r.References {
			goals = appendGoal(goals, goal{What: what, Reference: reference, AtLeast: r.Quantities[quantity].More, Bound: bound},
				r.of(target).ratios(r.of(reference), quantity))
		}
	}
	ratio("short connections, one slot, linger 0", "short-1", lockLinger0.name, 0, 1.10)
	ratio("short connections, one slot, default settings", "short-1", lockDefault.name, 0, 0.90)
	for _, n := range lines {
		name := fmt.Sprintf("handoff-%d", n)
		ratio(fmt.Sprintf("hand-off p50, linger 0, waiters: %d", n), name, lockLinger0.name, 0, 0.85)
		ratio(fmt.Sprintf("hand-off p99, linger 0, waiters: %d", n), name, lockLinger0.name, 1, 1.2)
	}
	shortest, longest := slices.Min(lines), slices.Max(lines)
	few, many := f.named(fmt.Sprintf("handoff-%d", shortest)), f.named(fmt.Sprintf("handoff-%d", longest))
	if few != nil && many != nil {
		goals = appendGoal(goals, goal{
			What:      fmt.Sprintf("hand-off p50, linger 0, waiters: %d", longest),
			Reference: waitersTarget(shortest),
			Bound:     1.2,
		}, many.of(lockLinger0.name).ratios(few.of(lockLinger0.name), 0))
	}
	ratio("memory for each waiter", "memory", lockDefault.name, 0, 1)
	ratio("bulk, to the client", "bulk-down", lockDefault.name, 0, 0.99)
	ratio("bulk, to the service", "bulk-up", lockDefault.name, 0, 0.99)
	ratio("queue: acquire and release, uncontended", "queue", queueName, 0, 1)
	if r := f.named("queue"); r != nil {
		goals = appendGoal(goals, goal{What: "queue: allocations of that"}, r.of(queueName).values(1))
	}
	if r := f.named("reload"); r != nil {
		goals = appendGoal(goals, goal{What: "waiters lost by reloads"}, r.of(waitersTarget(longest)).values(2))
	}
	return goals
}

func appendGoal(goals []goal, g goal, rounds []float64) []goal {
	if len(rounds) == 0 {
		return goals
	}
	g.Measured, g.Lowest, g.Highest = median(rounds), slices.Min(rounds), slices.Max(rounds)
	if g.Reference == "" { // a count: it must be met in each round
		g.Measured = g.Highest
	}
	if math.IsNaN(g.Measured) {
		return goals
	}
	return append(goals, g)
}

func printGoals(out io.Writer, goals []goal) {
	fmt.Fprintf(out, "\nGoals: the median of the rounds' ratios, the lowest and the highest\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tgoal\tmeasured\tfrom .. to\tmet")
	for _, g := range goals {
		bound, met := "<= "+number(g.Bound), "yes"
		if g.AtLeast {
			bound = ">= " + number(g.Bound)
		}
		if g.Reference != "" {
			bound += " x " + g.Reference
		}
		if !g.met() {
			met = "NO"
		}
		fmt.Fprintf(w, "  %s\t%s\t%.3f\t%.3f .. %.3f\t%s\n", g.What, bound, g.Measured, g.Lowest, g.Highest, met)
	}
	w.Flush()
}
