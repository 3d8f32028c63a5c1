package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/plan"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
)

func planCommand() *cobra.Command {
	q := question{watch: caddy.Duration(time.Minute)}
	return adminCommand{
		use:   "plan [<lock>] [--rate <n>/s] [--hold <duration>] [--slots <n>] [--wait-p99 <duration>] [...]",
		short: "Says how many slots a lock needs, and how long its line will be",
		long: `
Says how long connections will stand in line, if so many come, and each holds a
slot for so long. The forecast holds if they come independently of each other.

	$ caddy tcplock plan --rate 3/s --hold 2s --slots 8 --wait-p99 10s

With --wait-p99 it says how many slots are needed for that wait. Without a lock,
plan asks no Caddy. With a lock, it watches that lock for a while, and takes from
it what --rate, --hold and --slots do not say.

Exit codes: 0, the slots are enough; 1, the command failed; 6, they are too few.`,
		lock:  lockOrAll,
		flags: q.define,
		check: func([]string) error { return q.check() },
		run: func(c *call) error {
			if c.lock != "" {
				if err := q.askLock(c); err != nil {
					return err
				}
			}
			if err := q.complete(); err != nil {
				return usageError(c.Command, err)
			}
			a := q.answer()
			if !q.asJSON {
				if err := printLines(c.OutOrStdout(), a.lines()); err != nil {
					return err
				}
				return a.verdict()
			}
			text, err := json.Marshal(a)
			if err != nil {
				return err
			}
			c.say("%s", text)
			return a.verdict()
		},
	}.cobra()
}

// question has what the user asks; nil and 0: not given.
type question struct {
	rate        float64
	hold        caddy.Duration
	slots       int
	target      *caddy.Duration // the longest time that 99 of 100 should wait
	variability *float64
	maxWaiting  *int
	watch       caddy.Duration
	asJSON      bool
}

func (q *question) define(fs *pflag.FlagSet) {
	fs.Func("rate", "how many connections come: `n/s`, or n/m, or n/h", opts.One(&q.rate, rate).Value)
	durationFlag(fs, &q.hold, "hold", "how long a connection holds a slot on average, a `duration`")
	fs.Func("slots", "`number` of slots (default: as many as --wait-p99 needs)", opts.One(&q.slots, lock.ParseSlots).Value)
	fs.Func("wait-p99", "longest `duration` that 99 of 100 connections should stand in line", opts.Optional(&q.target, plannedWait).Value)
	fs.Func("variability", "standard deviation of the time with a slot, divided by its mean, a `number`; 0: the same for all (default 1: exponential)", opts.Optional(&q.variability, variability).Value)
	fs.Func("max-waiting", "`number` of connections that may stand in line (default no limit)", opts.Optional(&q.maxWaiting, plannedLine).Value)
	durationFlag(fs, &q.watch, "watch", "how long to watch the lock, a `duration` (default 1m)")
	fs.BoolVar(&q.asJSON, "json", false, "print the figures as JSON")
}

// check refuses flags that do not go together.
func (q *question) check() error {
	if q.variability != nil && q.maxWaiting != nil {
		return errors.New("found --variability beside --max-waiting, expected one or the other: with --max-waiting, the formulas hold for a variability of 1 only")
	}
	return nil
}

// complete refuses a question in which something is missing.
func (q *question) complete() error {
	switch {
	case q.rate == 0:
		return errors.New("found no --rate, expected how many connections come, such as 3/s, 90/m or 500/h")
	case q.hold == 0:
		return errors.New("found no --hold, expected how long a connection holds a slot on average, such as 2s")
	case q.slots == 0 && q.target == nil:
		return errors.New("found neither --slots nor --wait-p99, expected one of them or both")
	}
	return nil
}

// plan returns the question as a plan, without a number of slots.
func (q *question) plan() plan.Plan {
	p := plan.Plan{Rate: q.rate, Hold: time.Duration(q.hold).Seconds(), Variability: 1, MaxWaiting: plan.Unlimited}
	if q.variability != nil {
		p.Variability = *q.variability
	}
	if q.maxWaiting != nil {
		p.MaxWaiting = *q.maxWaiting
	}
	return p
}

// planAnswer is what plan prints.
type planAnswer struct {
	RatePerSecond float64         `json:"rate_per_second"`
	HoldSeconds   float64         `json:"hold_seconds"`
	Variability   float64         `json:"variability"`
	MaxWaiting    *int            `json:"max_waiting,omitempty"`
	TargetSeconds *float64        `json:"wait_p99_seconds,omitempty"`
	Load          float64         `json:"load"`                   // how many slots are busy on average, if there are enough
	Slots         int             `json:"slots,omitempty"`        // as given
	SlotsNeeded   int             `json:"slots_needed,omitempty"` // for the target, or without one for a line that does not grow for ever; absent: more than a lock may have
	Enough        bool            `json:"enough"`                 // the given slots are enough; without them: a lock can have enough
	Forecasts     []plan.Forecast `json:"forecasts"`              // for the given slots and the needed ones
}

func (q *question) answer() *planAnswer {
	p := q.plan()
	a := &planAnswer{
		RatePerSecond: p.Rate, HoldSeconds: p.Hold, Variability: p.Variability, MaxWaiting: q.maxWaiting,
		Load: p.Load(), Slots: q.slots,
	}
	well := func(p plan.Plan) bool { return !p.Endless() }
	if q.target != nil {
		target := time.Duration(*q.target).Seconds()
		a.TargetSeconds = &target
		well = func(p plan.Plan) bool { return p.Meets(target) }
	}
	needed, ok := p.SlotsFor(well, lock.MaxSlots)
	if ok {
		a.SlotsNeeded = needed
	}
	a.Enough = ok && (q.slots == 0 || q.slots >= needed)
	about := []int{q.slots, needed}
	switch {
	case q.slots == 0: // show one less and one more, to compare
		about = []int{needed - 1, needed, needed + 1}
	case a.Enough && q.target == nil:
		about = []int{q.slots}
	}
	slices.Sort(about)
	for _, p.Slots = range slices.Compact(about) {
		if p.Slots > 0 && p.Slots <= lock.MaxSlots {
			a.Forecasts = append(a.Forecasts, p.Forecast())
		}
	}
	return a
}

// advised returns the forecast for the slots that plan recommends: the given ones if they are
// enough, or the needed ones. It returns nil if there is nothing to recommend.
func (a *planAnswer) advised() *plan.Forecast {
	slots := a.Slots
	if !a.Enough || slots == 0 {
		slots = a.SlotsNeeded
	}
	for i := range a.Forecasts {
		if f := &a.Forecasts[i]; f.Slots == slots && (a.Enough || a.TargetSeconds != nil) {
			return f
		}
	}
	return nil
}

// lines returns the answer as text.
func (a *planAnswer) lines() []textLine {
	text := []string{fmt.Sprintf("%s, each with a slot for %s, keep %s busy on average.",
		rateText(a.RatePerSecond), text.Brief(seconds(a.HoldSeconds)), figureOf(a.Load, "slot")), ""}
	t := &table{columns: []column{
		{title: "SLOTS", right: true}, {title: "BUSY", right: true}, {title: "REFUSED", right: true}, {title: "MUST WAIT", right: true},
		{title: "MEAN WAIT", right: true}, {title: "P50", right: true}, {title: "P90", right: true}, {title: "P99", right: true},
		{title: "MEAN LINE", right: true}, {title: "P99 LINE", right: true},
	}}
	for _, f := range a.Forecasts {
		t.row(a.row(&f)...)
	}
	for _, l := range t.lines(0) {
		text = append(text, l.String())
	}
	text = append(text, "")
	for _, f := range a.Forecasts {
		if f.Line == nil {
			text = append(text, fmt.Sprintf("With %s the line grows for ever%s.", opts.Count(f.Slots, "slot"), pace(f.GrowthPerMinute)))
		}
	}
	text = append(text, a.advice()...)
	lines := make([]textLine, len(text))
	for i, s := range text {
		lines[i] = textLine{{text: s}}
	}
	return lines
}

// pace says how fast a line grows. If as many connections come as the slots can serve, the line
// grows too, but more and more slowly.
func pace(growth float64) string {
	if growth < 0.01 {
		return ", if slowly"
	}
	return ", by " + figure(growth) + " a minute"
}

func (a *planAnswer) row(f *plan.Forecast) []span {
	cells := []string{strconv.Itoa(f.Slots), percent(f.Busy), "", "100%", "-", "-", "-", "-", "-", "-"}
	if l := f.Line; l != nil {
		wait := func(s float64) string { return text.Brief(seconds(s)) }
		cells = append(cells[:3], percent(l.MustWait), wait(l.MeanWaitSeconds), wait(l.P50WaitSeconds), wait(l.P90WaitSeconds), wait(l.P99WaitSeconds),
			figure(l.MeanWaiting), strconv.Itoa(l.P99Waiting))
		if a.MaxWaiting != nil {
			cells[2] = percent(l.Refused)
		}
	}
	spans := make([]span, len(cells))
	for i, text := range cells {
		spans[i].text = text
	}
	return spans
}

// advice returns the lines that say how many slots are needed, and what to write into the
// Caddyfile.
func (a *planAnswer) advice() (text []string) {
	needed := opts.Count(a.SlotsNeeded, "slot")
	switch {
	case a.SlotsNeeded == 0:
		text = append(text, fmt.Sprintf("A lock may have %d slots, and that is not enough.", lock.MaxSlots))
	case !a.Enough && a.TargetSeconds == nil:
		text = append(text, fmt.Sprintf("It takes %s for a line that does not grow for ever.", needed))
	case a.TargetSeconds == nil:
	case !a.Enough || a.Slots == 0:
		text = append(text, fmt.Sprintf("It takes %s.", needed))
	case a.Slots == a.SlotsNeeded:
		text = append(text, fmt.Sprintf("%s will be enough, and no fewer.", needed))
	default:
		text = append(text, fmt.Sprintf("%s will be enough, %d would be too.", opts.Count(a.Slots, "slot"), a.SlotsNeeded))
	}
	f := a.advised()
	if f == nil {
		return text
	}
	most, refused := f.Line.P99Waiting+1, "fewer than 1 of 100"
	if a.MaxWaiting != nil {
		most, refused = *a.MaxWaiting, percent(f.Line.Refused)
	}
	return append(text, fmt.Sprintf("With a line of up to %d, %s are refused:", most, refused), "",
		fmt.Sprintf("\ttcplock %d {", f.Slots), fmt.Sprintf("\t\tmax_waiting %d", most), "\t}")
}

// verdict returns an error if the slots are too few.
func (a *planAnswer) verdict() error {
	if a.Enough {
		return nil
	}
	slots, expected := a.Slots, "a line that does not grow for ever"
	if slots == 0 {
		slots = lock.MaxSlots
	}
	if a.TargetSeconds != nil {
		expected = fmt.Sprintf("99 of 100 to have a slot within %s", seconds(*a.TargetSeconds))
	}
	return &codedError{exitTooSlow, fmt.Errorf("found %s to be too few, expected %s", opts.Count(slots, "slot"), expected)}
}

// The parsers of the flags' values.

func rate(s string) (float64, error) {
	number, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(number, 64)
	seconds, ok := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	if n /= seconds; err != nil || !ok || !(n >= 1e-9 && n <= 1e9) {
		return 0, fmt.Errorf("found %q, expected a rate such as 3/s, 90/m or 500/h", s)
	}
	return n, nil
}

func plannedWait(s string) (caddy.Duration, error) {
	d, err := opts.Duration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("found %s, expected a duration of 0 or more", s)
	}
	return d, err
}

func variability(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0 && n <= 100) {
		return 0, fmt.Errorf("found %q, expected a number from 0 to 100", s)
	}
	return n, nil
}

func plannedLine(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > maxLine {
		return 0, fmt.Errorf("found %q, expected a whole number from 0 to %d", s, maxLine)
	}
	return n, nil
}

// maxLine bounds --max-waiting. A process has file descriptors for fewer connections.
const maxLine = 1_000_000

// figure formats a number with three digits.
func figure(n float64) string {
	switch {
	case n >= 100:
		return strconv.FormatFloat(n, 'f', 0, 64)
	case n > 0 && n < 0.01:
		return "<0.01"
	}
	return strconv.FormatFloat(n, 'g', 3, 64)
}

// rateText formats a rate in the smallest unit of time in which it is 1 or more.
func rateText(perSecond float64) string {
	switch {
	case perSecond*60 < 1:
		return figure(perSecond*3600) + "/h"
	case perSecond < 1:
		return figure(perSecond*60) + "/m"
	}
	return figure(perSecond) + "/s"
}

func figureOf(n float64, what string) string {
	text := figure(n)
	if text != "1" {
		what += "s"
	}
	return text + " " + what
}

// percent formats a part of the whole. It never rounds to 0% or 100%.
func percent(part float64) string {
	n := 100 * part
	switch {
	case n > 0 && n < 0.1:
		return "<0.1%"
	case n > 99.9 && n < 100:
		return ">99.9%"
	case n > 0 && n < 1 || n > 99 && n < 100:
		return fmt.Sprintf("%.1f%%", n)
	}
	return fmt.Sprintf("%.0f%%", n)
}
