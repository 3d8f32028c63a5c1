package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// quantity is a quantity that is measured.
type quantity struct {
	Name string `json:"name"` // with its unit
	More bool   `json:"more"` // whether more is better, else less is
}

// result is the result of a measurement.
type result struct {
	Name       string     `json:"name"`
	Title      string     `json:"title"`
	References []string   `json:"references"` // the targets with which the others are compared
	Quantities []quantity `json:"quantities"`
	Targets    []*series  `json:"targets"`
	Missing    string     `json:"missing,omitempty"` // why there is no measurement
	Remarks    []string   `json:"remarks,omitempty"`
}

func (r *result) remark(text string) { r.Remarks = append(r.Remarks, text) }

// series has the values of one target.
type series struct {
	Target string      `json:"target"`
	Rounds [][]float64 `json:"rounds"` // the quantities of each round
}

func (r *result) add(target string, values ...float64) {
	s := r.of(target)
	if s == nil {
		s = &series{Target: target}
		r.Targets = append(r.Targets, s)
	}
	s.Rounds = append(s.Rounds, values)
}

// of returns the values of a target, nil if there are none.
func (r *result) of(target string) *series {
	for _, s := range r.Targets {
		if s.Target == target {
			return s
		}
	}
	return nil
}

// reference is the best of the references, nil if none has values.
func (r *result) reference(quantity int) *series {
	var best *series
	for _, name := range r.References {
		s := r.of(name)
		if s == nil {
			continue
		}
		if best == nil || (s.median(quantity) > best.median(quantity)) == r.Quantities[quantity].More {
			best = s
		}
	}
	return best
}

// values returns a quantity in each round. It returns nil for a nil series.
func (s *series) values(quantity int) []float64 {
	if s == nil {
		return nil
	}
	values := make([]float64, len(s.Rounds))
	for i, round := range s.Rounds {
		values[i] = round[quantity]
	}
	return values
}

func (s *series) median(quantity int) float64 { return median(s.values(quantity)) }

// ratios returns the ratio of s to another series in each round, because within a round the load of
// the machine is the same for both. It returns nil if their numbers of rounds differ.
func (s *series) ratios(other *series, quantity int) []float64 {
	if s == nil || other == nil || len(s.Rounds) != len(other.Rounds) {
		return nil
	}
	ratios, others := s.values(quantity), other.values(quantity)
	for i := range ratios {
		ratios[i] /= others[i]
	}
	return ratios
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return math.NaN()
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// print writes a table. For each quantity it has the median of the rounds, the lowest and the highest
// value if there are several rounds, and the ratio to the reference.
func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", r.Title)
	if r.Missing != "" {
		fmt.Fprintf(out, "  not measured: %s\n", r.Missing)
		return
	}
	several := slices.ContainsFunc(r.Targets, func(s *series) bool { return len(s.Rounds) > 1 })
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, q := range r.Quantities {
		fmt.Fprintf(w, "\t%s", q.Name)
		if several {
			fmt.Fprint(w, "\tfrom .. to")
		}
		if r.reference(i) != nil {
			fmt.Fprint(w, "\tratio")
		}
	}
	fmt.Fprintln(w)
	for _, s := range r.Targets {
		fmt.Fprintf(w, "  %s", s.Target)
		for i := range r.Quantities {
			v := s.values(i)
			fmt.Fprintf(w, "\t%s", number(median(v)))
			if several {
				fmt.Fprintf(w, "\t%s .. %s", number(slices.Min(v)), number(slices.Max(v)))
			}
			if ref := r.reference(i); ref != nil {
				fmt.Fprintf(w, "\t%s", number(median(s.ratios(ref, i))))
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	switch len(r.References) {
	case 0:
	case 1:
		fmt.Fprintf(out, "  ratio: to %s\n", r.References[0])
	default:
		fmt.Fprintf(out, "  ratio: to the best of: %s\n", strings.Join(r.References, "; "))
	}
	for _, remark := range r.Remarks {
		fmt.Fprintf(out, "  %s\n", remark)
	}
}

// number writes a value with at least three significant digits, NaN and infinity as "-".
func number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
