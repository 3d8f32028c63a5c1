package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The tables of the commands status and top.

// class is a group of outcomes that the tables show as one figure.
type class struct {
	name     string
	style    style // of a rate other than 0
	spare    int   // see column
	outcomes []string
}

var classes = []class{
	{"served", stylePlain, 2, []string{status.Served}},
	{"refused", styleNotice, 3, status.RefusedOutcomes},
	{"failed", styleAlarm, 1, status.FailedOutcomes},
	{"gone", stylePlain, 6, status.GoneOutcomes},
}

// count returns how many connections of the class have ended.
func (c *class) count(ended map[string]uint64) (n uint64) {
	for _, outcome := range c.outcomes {
		n += ended[outcome]
	}
	return n
}

// rate formats how many connections of the class end each second.
func (c *class) rate(perSecond float64) span {
	switch {
	case perSecond == 0:
		return span{"0/s", styleFaint}
	case perSecond < 0.1:
		return span{"<0.1/s", c.style}
	case perSecond < 10:
		return span{fmt.Sprintf("%.1f/s", perSecond), c.style}
	}
	return span{fmt.Sprintf("%.0f/s", perSecond), c.style}
}

// locksTable has a column for each class of outcomes. It shows what rate returns, or the totals if
// rate is nil.
func locksTable(locks []status.Lock, rate func(lock string, c *class) float64) *table {
	t := &table{none: "no locks", columns: []column{
		{title: "LOCK", least: 16},
		{title: "SLOTS", right: true},
		{title: "WAITING", right: true},
		{title: "OLDEST", right: true},
		{title: "P50", right: true, usual: 6, spare: 5},
		{title: "P99", right: true, usual: 6, spare: 4},
	}}
	for _, c := range classes {
		t.columns = append(t.columns, column{title: strings.ToUpper(c.name), right: true, usual: 6, spare: c.spare})
	}
	t.columns = append(t.columns, column{title: "STATE", least: 14})
	for i := range locks {
		s := &locks[i]
		waiting, oldest := fmt.Sprint(s.Waiting), span{text: "-"}
		if s.MaxWaiting != nil {
			waiting = fmt.Sprintf("%d/%d", s.Waiting, *s.MaxWaiting)
		}
		if s.Waiting > 0 {
			oldest.text = text.Brief(seconds(s.OldestWaitSeconds))
		}
		if lineIsSlow(s) {
			oldest.style = styleNotice
		}
		cells := []any{s.Name, fmt.Sprintf("%d/%d", s.Held, s.Slots), waiting, oldest,
			waitFigure(s, s.Waits.P50Seconds), waitFigure(s, s.Waits.P99Seconds)}
		for _, c := range classes {
			if rate != nil {
				cells = append(cells, c.rate(rate(s.Name, &c)))
			} else {
				cells = append(cells, strconv.FormatUint(c.count(s.Connections), 10))
			}
		}
		t.add(s.Name, append(cells, lockState(s))...)
	}
	return t
}

// waitFigure formats one of the figures of s.Waits.
func waitFigure(s *status.Lock, figure float64) string {
	if s.Waits.Count == 0 {
		return "-"
	}
	return text.Brief(seconds(figure))
}

// lineIsSlow reports whether the oldest waiter has been in line for more than 10 seconds, and for
// longer than any of the last connections that got a slot.
func lineIsSlow(s *status.Lock) bool {
	return s.Paused == nil && s.OldestWaitSeconds > max(10, s.Waits.MaxSeconds)
}

// lockState returns what needs attention at a lock, or open.
func lockState(s *status.Lock) span {
	var what []string
	seen := stylePlain
	add := func(is bool, as style, format string, args ...any) {
		if is {
			what = append(what, fmt.Sprintf(format, args...))
			seen = max(seen, as)
		}
	}
	add(s.Failing != nil, styleAlarm, "failing")
	if p := s.Paused; p != nil {
		words := "paused"
		if d := s.Now.Sub(p.Since); d >= time.Second {
			words += " for " + text.Brief(d)
		}
		if p.Until != nil {
			words += " (" + text.Brief(p.Until.Sub(s.Now).Round(time.Second)) + " left)"
		}
		add(true, styleNotice, "%s", words)
	}
	add(s.Exclusive, styleNotice, "hooks alone")
	add(lineIsSlow(s), styleNotice, "slow")
	down := 0
	for _, w := range s.Workers {
		if w.State == status.WorkerOut || w.Process != nil && w.Process.Failed != "" {
			down++
		}
	}
	if down > 0 && s.Workers[0].Slot == 0 {
		add(true, styleAlarm, "service down")
	} else {
		add(down > 0, styleAlarm, "%d of %s down", down, opts.Count(len(s.Workers), "worker"))
	}
	add(s.LeftOver > 0, styleNotice, "%d left over", s.LeftOver)
	return span{cmp.Or(strings.Join(what, ", "), "open"), seen}
}

// failing says why a lock's activate hooks refuse connections. It returns nil if they do not.
func failing(s *status.Lock) textLine {
	f := s.Failing
	if f == nil {
		return nil
	}
	return textLine{{fmt.Sprintf("failing for %s, %s refused: %s",
		text.Brief(s.Now.Sub(f.Since)), opts.Count(int(f.Connections), "connection"), f.Error), styleAlarm}}
}

// lockLines returns one lock with its holders, waiters, workers and last events, as status shows it.
func lockLines(s *status.Lock) []textLine {
	lines := locksTable([]status.Lock{*s}, nil).lines(0, 0, nil)
	if why := failing(s); why != nil {
		lines = append(lines, nil, why)
	}
	const listedEvents = 10 // --json has more
	last := *s
	last.Events = s.Events[:min(len(s.Events), listedEvents)]
	for _, t := range []*table{holdersTable(s), waitersTable(s), workersTable(s), eventsTable(&last)} {
		if !t.leftOut() {
			lines = append(append(lines, nil), t.lines(0, 0, nil)...)
		}
	}
	return lines
}

// mostFree is the highest number of slots of a lock for which its free slots are listed.
const mostFree = 16

func holdersTable(s *status.Lock) *table {
	t := &table{none: "no holders", more: s.Held - len(s.Holders), columns: []column{
		{title: "SLOT", right: true},
		{title: "ID", right: true, usual: 5},
		{title: "HOLDER", usual: 21},
		{title: "HELD", right: true, usual: 6},
		{title: "WAITED", right: true, spare: 2},
		{title: "IN", right: true, usual: 7, spare: 3},
		{title: "OUT", right: true, usual: 7, spare: 4},
		{title: "STATE", usual: 10},
		{title: "WORKER", spare: 1},
		{title: "CONNECT", right: true, spare: 5},
	}}
	next := 1
	free := func(until int) {
		for ; next < until && s.Slots <= mostFree; next++ {
			t.add(nil, span{strconv.Itoa(next), styleFaint}, "", span{"free", styleFaint})
		}
	}
	for _, c := range s.Holders {
		free(c.Slot)
		next = c.Slot + 1
		cells := []any{c.Slot, c.ID, c.Client, s.Now.Sub(c.Since), seconds(c.WaitedSeconds),
			humanize.IBytes(uint64(c.BytesIn)), humanize.IBytes(uint64(c.BytesOut)), c.State, c.Worker}
		if c.ConnectSeconds > 0 { // tcplock itself has connected
			cells = append(cells, seconds(c.ConnectSeconds))
		}
		t.add(c.ID, cells...)
	}
	free(s.Slots + 1)
	return t
}

func waitersTable(s *status.Lock) *table {
	t := &table{none: "no waiters", more: s.Waiting - len(s.Waiters), columns: []column{
		{title: "POSITION", right: true},
		{title: "ID", right: true, usual: 5},
		{title: "WAITER", usual: 21},
		{title: "WAITED", right: true},
		{title: "PRIORITY", right: true, spare: 1},
	}}
	for _, c := range s.Waiters {
		t.add(c.ID, c.Position, c.ID, c.Client, seconds(c.WaitedSeconds), c.Priority)
	}
	return t
}

func workersTable(s *status.Lock) *table {
	t := &table{columns: []column{
		{title: "SLOT", right: true},
		{title: "WORKER"},
		{title: "STATE", usual: 7},
		{title: "PROCESS", usual: 11},
		{title: "FOR", right: true, usual: 6},
		{title: "PID", right: true, usual: 7, spare: 2},
		{title: "SERVED", right: true, spare: 3},
		{title: "RESTARTS", spare: 1},
		{title: "REASON", least: 10},
	}}
	for _, w := range s.Workers {
		state := span{text: w.State}
		if w.State == status.WorkerOut {
			state.style = styleAlarm
		}
		slot := any(w.Slot)
		if w.Slot == 0 {
			slot = "all"
		}
		cells := []any{slot, w.Address, state}
		if p := w.Process; p != nil {
			reason := span{text: p.LastReason}
			switch {
			case p.Failed != "":
				reason = span{p.Failed, styleAlarm}
			case p.Due != "":
				reason = span{"due: " + p.Due, styleNotice}
			}
			var restarts []string // by reason
			for _, reason := range slices.Sorted(maps.Keys(p.Restarts)) {
				restarts = append(restarts, fmt.Sprintf("%d %s", p.Restarts[reason], reason))
			}
			cells = append(cells, p.State, s.Now.Sub(p.Since), p.PID, strconv.Itoa(p.Connections),
				cmp.Or(strings.Join(restarts, ", "), "0"), reason)
		}
		t.add(nil, cells...)
	}
	return t
}

func eventsTable(s *status.Lock) *table {
	t := &table{none: "no events", columns: []column{
		{title: "AGO", right: true, usual: 6},
		{title: "EVENT", usual: 11},
		{title: "SLOT", right: true},
		{title: "ID", right: true, usual: 5},
		{title: "CLIENT", usual: 21, spare: 1},
		{title: "WHAT", least: 15},
	}}
	for _, e := range s.Events {
		what := []string{e.Moment, e.Reason, e.Error}
		text := strings.Join(slices.DeleteFunc(what, func(s string) bool { return s == "" }), ": ")
		if e.Count > 1 {
			text = strings.TrimSpace(fmt.Sprintf("%s (%d times)", text, e.Count))
		}
		t.add(nil, s.Now.Sub(e.Time), e.Event, e.Slot, e.Connection, e.Client, text)
	}
	return t
}
