package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// quantity is something that is measured.
type quantity struct {
	Name  string `json:"name"`  // with its unit
	Lower bool   `json:"lower"` // is better
}

// result is what a measurement has found.
type result struct {
	Name       string     `json:"name"`
	Reference  string     `json:"reference"` // the target that the others are compared with
	Quantities []quantity `json:"quantities"`
	Targets    []*series  `json:"targets"`
}

// series has what was found at one target.
type series struct {
	Target string      `json:"target"`
	Rounds [][]float64 `json:"rounds"` // the quantities of each round
}

func newResult(name, reference string, quantities ...quantity) *result {
	return &result{Name: name, Reference: reference, Quantities: quantities}
}

func (s *series) add(values []float64) { s.Rounds = append(s.Rounds, values) }

func (r *result) of(target string) *series {
	for _, s := range r.Targets {
		if s.Target == target {
			return s
		}
	}
	return nil
}

func (s *series) values(quantity int) []float64 {
	values := make([]float64, len(s.Rounds))
	for i, round := range s.Rounds {
		values[i] = round[quantity]
	}
	return values
}

// ratio is how s compares with another: the median of the ratios within each round, in
// which both have met the same machine.
func (s *series) ratio(other *series, quantity int) float64 {
	var ratios []float64
	for i := range min(len(s.Rounds), len(other.Rounds)) {
		ratios = append(ratios, s.Rounds[i][quantity]/other.Rounds[i][quantity])
	}
	return median(ratios)
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", r.Name)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\t")
	for _, q := range r.Quantities {
		fmt.Fprintf(w, "%s\tfrom .. to\tx %s\t", q.Name, r.Reference)
	}
	fmt.Fprintln(w)
	for _, s := range r.Targets {
		fmt.Fprintf(w, "%s\t", s.Target)
		for i := range r.Quantities {
			v := s.values(i)
			fmt.Fprintf(w, "%.4g\t%.4g .. %.4g\t", median(v), slices.Min(v), slices.Max(v))
			if reference := r.of(r.Reference); reference != nil {
				fmt.Fprintf(w, "%.2f", s.ratio(reference, i))
			}
			fmt.Fprint(w, "\t")
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}
