package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/plan"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func planCommand() command {
	a, watch, asJSON := &planAnswer{Variability: 1}, time.Minute, false
	return command{
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
		lock: lockOrAll,
		flags: func(c *call) {
			fs := c.Flags()
			fs.Func("rate", "how many connections come: `n/s`, or n/m, or n/h", opts.One(&a.RatePerSecond, rate).Value)
			fs.Func("hold", "how long a connection holds a slot on average, a `duration`",
				opts.One(&a.HoldSeconds, inSeconds(positive)).Value)
			fs.Func("slots", "`number` of slots (default: as many as --wait-p99 needs)",
				opts.One(&a.Slots, lock.ParseSlots).Value)
			fs.Func("wait-p99", "longest `duration` that 99 of 100 connections should stand in line",
				opts.Optional(&a.TargetSeconds, inSeconds(notNegative)).Value)
			fs.Func("variability", "standard deviation of the time with a slot, divided by its mean, a `number`; "+
				"0: the same for all (default 1: exponential)", opts.One(&a.Variability, variability).Value)
			fs.Func("max-waiting", "`number` of connections that may stand in line (default no limit)",
				opts.Optional(&a.MaxWaiting, plannedLine).Value)
			fs.Func("watch", "how long to watch the lock, a `duration` (default 1m)", opts.One(&watch, positive).Value)
			fs.BoolVar(&asJSON, "json", false, "print the figures as JSON")
		},
		check: func(c *call) error {
			if c.Flags().Changed("variability") && a.MaxWaiting != nil {
				return errors.New("found --variability beside --max-waiting, expected one or the other: " +
					"with --max-waiting, the formulas hold for a variability of 1 only")
			}
			return nil
		},
		run: func(c *call) error {
			if c.lock != "" {
				if err := a.askLock(c, watch); err != nil {
					return err
				}
			}
			if err := a.compute(); err != nil {
				return usageError(c.Command, err)
			}
			words := a.String()
			if asJSON {
				text, err := json.Marshal(a)
				if err != nil {
					return err
				}
				words = string(text) + "\n"
			}
			if _, err := io.WriteString(c.OutOrStdout(), words); err != nil {
				return err
			}
			return a.verdict()
		},
	}
}

// planAnswer is what plan prints: the question, in which 0 and nil stand for what was not given, and
// the answer.
type planAnswer struct {
	RatePerSecond float64  `json:"rate_per_second"`
	HoldSeconds   float64  `json:"hold_seconds"`
	Variability   float64  `json:"variability"`
	MaxWaiting    *int     `json:"max_waiting,omitempty"`
	TargetSeconds *float64 `json:"wait_p99_seconds,omitempty"` // the longest time that 99 of 100 should wait
	Load          float64  `json:"load"`                       // how many slots are busy on average, if there are enough
	Slots         int      `json:"slots,omitempty"`            // as given

	// The slots needed for the target, or without one for a line that does not grow for ever.
	// Absent: more than a lock may have.
	SlotsNeeded int  `json:"slots_needed,omitempty"`
	Enough      bool `json:"enough"` // the given slots are enough; without them: a lock can have enough

	Forecasts []plan.Forecast `json:"forecasts"` // for the given slots and the needed ones
}

// compute answers the question. It returns an error if something is missing in it.
func (a *planAnswer) compute() error {
	switch {
	case a.RatePerSecond == 0:
		return errors.New("found no --rate, expected how many connections come, such as 3/s, 90/m or 500/h")
	case a.HoldSeconds == 0:
		return errors.New("found no --hold, expected how long a connection holds a slot on average, such as 2s")
	case a.Slots == 0 && a.TargetSeconds == nil:
		return errors.New("found neither --slots nor --wait-p99, expected one of them or both")
	}
	p := plan.Plan{Rate: a.RatePerSecond, Hold: a.HoldSeconds, Variability: a.Variability, MaxWaiting: plan.Unlimited}
	if a.MaxWaiting != nil {
		p.MaxWaiting = *a.MaxWaiting
	}
	a.Load = p.Load()
	needed, ok := p.SlotsFor(func(p plan.Plan) bool {
		return !p.Endless() && (a.TargetSeconds == nil || p.Meets(*a.TargetSeconds))
	}, lock.MaxSlots)
	if ok {
		a.SlotsNeeded = needed
	}
	a.Enough = ok && (a.Slots == 0 || a.Slots >= needed)
	about := []int{a.Slots, needed}
	switch {
	case a.Slots == 0: // show one less and one more, to compare
		about = []int{needed - 1, needed, needed + 1}
	case a.Enough && a.TargetSeconds == nil:
		about = []int{a.Slots}
	}
	slices.Sort(about)
	for _, p.Slots = range slices.Compact(about) {
		if p.Slots > 0 && p.Slots <= lock.MaxSlots {
			a.Forecasts = append(a.Forecasts, p.Forecast())
		}
	}
	return nil
}

// String returns the answer for people.
func (a *planAnswer) String() string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	busy := figure(a.Load) + " slot"
	if busy != "1 slot" {
		busy += "s"
	}
	say("%s, each with a slot for %s, keep %s busy on average.\n",
		rateText(a.RatePerSecond), text.Brief(seconds(a.HoldSeconds)), busy)
	t := new(table)
	const titles = "SLOTS,BUSY,REFUSED,MUST WAIT,MEAN WAIT,P50,P90,P99,MEAN LINE,P99 LINE"
	for title := range strings.SplitSeq(titles, ",") {
		t.columns = append(t.columns, column{title: title, right: true})
	}
	for _, f := range a.Forecasts {
		cells := []any{f.Slots, percent(f.Busy), "", "100%", "-", "-", "-", "-", "-", "-"}
		if l := f.Line; l != nil {
			cells = append(cells[:3], percent(l.MustWait), seconds(l.MeanWaitSeconds), seconds(l.P50WaitSeconds),
				seconds(l.P90WaitSeconds), seconds(l.P99WaitSeconds), figure(l.MeanWaiting), strconv.Itoa(l.P99Waiting))
			if a.MaxWaiting != nil {
				cells[2] = percent(l.Refused)
			}
		}
		t.add(nil, cells...)
	}
	_ = printLines(&out, t.lines(0, 0, nil))
	say("")
	for _, f := range a.Forecasts {
		slots := opts.Count(f.Slots, "slot")
		switch {
		case f.Line != nil:
		case f.GrowthPerMinute < 0.01: // the slots can serve as many as come: it grows more and more slowly
			say("With %s the line grows for ever, if slowly.", slots)
		default:
			say("With %s the line grows for ever, by %s a minute.", slots, figure(f.GrowthPerMinute))
		}
	}
	needed := opts.Count(a.SlotsNeeded, "slot")
	switch {
	case a.SlotsNeeded == 0:
		say("A lock may have %d slots, and that is not enough.", lock.MaxSlots)
	case !a.Enough && a.TargetSeconds == nil:
		say("It takes %s for a line that does not grow for ever.", needed)
	case a.TargetSeconds == nil:
	case !a.Enough || a.Slots == 0:
		say("It takes %s.", needed)
	case a.Slots == a.SlotsNeeded:
		say("%s will be enough, and no fewer.", needed)
	default:
		say("%s will be enough, %d would be too.", opts.Count(a.Slots, "slot"), a.SlotsNeeded)
	}
	recommended := a.Slots
	if !a.Enough || a.Slots == 0 {
		recommended = a.SlotsNeeded
	}
	for _, f := range a.Forecasts {
		if f.Slots != recommended || !a.Enough && a.TargetSeconds == nil {
			continue
		}
		most, refused := f.Line.P99Waiting+1, "fewer than 1 of 100"
		if a.MaxWaiting != nil {
			most, refused = *a.MaxWaiting, percent(f.Line.Refused)
		}
		say("With a line of up to %d, %s are refused:\n", most, refused)
		say("\ttcplock %d {\n\t\tmax_waiting %d\n\t}", f.Slots, most)
	}
	return out.String()
}

// verdict returns an error if the slots are too few.
func (a *planAnswer) verdict() error {
	if a.Enough {
		return nil
	}
	expected := "a line that does not grow for ever"
	if a.TargetSeconds != nil {
		expected = fmt.Sprintf("99 of 100 to have a slot within %s", seconds(*a.TargetSeconds))
	}
	slots := opts.Count(cmp.Or(a.Slots, lock.MaxSlots), "slot")
	return &codedError{exitTooSlow, fmt.Errorf("found %s to be too few, expected %s", slots, expected)}
}

// askLock takes from the lock what the user has not given.
func (a *planAnswer) askLock(c *call, watch time.Duration) error {
	var found plan.Plan
	if a.RatePerSecond > 0 && a.HoldSeconds > 0 {
		s, err := c.poll(c.Context())
		if err != nil {
			return err
		}
		found.Slots = s.Slots
	} else {
		c.PrintErrf("watching %s for %s\n", c.lock, watch)
		var err error
		if found, err = watchLock(c.Context(), watch, c.poll); err != nil {
			return fmt.Errorf("%s: %w", c.lock, err)
		}
	}
	a.RatePerSecond = cmp.Or(a.RatePerSecond, found.Rate)
	a.HoldSeconds = cmp.Or(a.HoldSeconds, found.Hold)
	a.Slots = cmp.Or(a.Slots, found.Slots)
	return nil
}

// watchLock polls a lock so many times, if the interval is not shorter than this.
const (
	watchPolls    = 300
	leastInterval = 100 * time.Millisecond
)

// watchLock observes the load of a lock for a while. The time with a slot, with hooks and settle,
// follows from Little's law: the mean number of holders, divided by how many give up a slot each
// second.
func watchLock(ctx context.Context, watch time.Duration, poll pollFunc) (found plan.Plan, err error) {
	first, err := poll(ctx)
	if err != nil {
		return found, err
	}
	last, held, n := first, 0, 0
	for begin := time.Now(); time.Since(begin) < watch; n++ {
		if !clock.Sleep(ctx, max(watch/watchPolls, leastInterval)) {
			return found, ctx.Err()
		}
		if last, err = poll(ctx); err != nil {
			return found, err
		}
		held += last.Held
		if last.Paused != nil || last.Exclusive {
			return found, fmt.Errorf("found it %s, expected it to admit connections", lockState(&last).text)
		}
	}
	cameBefore, leftBefore := flow(&first)
	came, left := flow(&last)
	came, left = came-cameBefore, left-leftBefore
	switch {
	case came < 0 || left < 0:
		return found, errors.New("found its counts reset, as by a restart of Caddy, expected them to go on: watch it again")
	case came == 0 || left == 0 || held == 0:
		return found, fmt.Errorf("found %s that came, %d that left and %s within %s, expected some of each: "+
			"watch it for longer", opts.Count(came, "connection"), left, opts.Count(held, "holder"), watch)
	}
	took := last.Now.Sub(first.Now).Seconds()
	return plan.Plan{
		Rate:  float64(came) / took,
		Hold:  float64(held) / float64(n) * took / float64(left),
		Slots: last.Slots,
	}, nil
}

// flow returns how many connections have come, and how many have given up a slot.
func flow(s *status.Lock) (came, left int) {
	came = s.Held + s.Waiting
	for outcome, n := range s.Connections {
		came += int(n)
		switch outcome {
		case status.Served, status.HoldTimeout, status.ServiceError, status.HookFailed:
			left += int(n)
		}
	}
	return came, left
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

// inSeconds returns a parser for durations that should be in seconds.
func inSeconds(parse func(string) (time.Duration, error)) func(string) (float64, error) {
	return func(s string) (float64, error) {
		d, err := parse(s)
		return d.Seconds(), err
	}
}

func notNegative(s string) (time.Duration, error) {
	d, err := opts.Duration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("found %s, expected a duration of 0 or more", s)
	}
	return time.Duration(d), err
}

func variability(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0 && n <= 100) {
		return 0, fmt.Errorf("found %q, expected a number from 0 to 100", s)
	}
	return n, nil
}

func plannedLine(s string) (int, error) {
	const most = 1_000_000 // a process has file descriptors for fewer connections
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("found %q, expected a whole number from 0 to %d", s, most)
	}
	return n, nil
}

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
