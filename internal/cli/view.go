package cli

import (
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

// classes are the groups of outcomes that the tables show as one figure.
var classes = []struct {
	name     string
	style    style // of a rate other than 0
	spare    int   // see column
	outcomes []string
}{
	{"served", stylePlain, 2, []string{status.Served}},
	{"refused", styleNotice, 3, status.RefusedOutcomes},
	{"failed", styleAlarm, 1, status.FailedOutcomes},
	{"gone", stylePlain, 6, status.GoneOutcomes},
}

// locksTable has a column for each class of outcomes.
func locksTable() table {
	t := table{columns: []column{
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
	return t
}

// lockRow returns a row of locksTable. It shows the rates, or the totals if rates is nil.
func lockRow(s *status.Lock, rates map[string]float64) []span {
	oldest := span{text: "-"}
	if s.Waiting > 0 {
		oldest.text = text.Brief(seconds(s.OldestWaitSeconds))
	}
	if lineIsSlow(s) {
		oldest.style = styleNotice
	}
	row := []span{
		{text: s.Name},
		{text: fmt.Sprintf("%d/%d", s.Held, s.Slots)},
		{text: waitingOf(s)},
		oldest,
		{text: waitFigure(s, s.Waits.P50Seconds)},
		{text: waitFigure(s, s.Waits.P99Seconds)},
	}
	for _, c := range classes {
		cell := span{text: strconv.FormatUint(sum(s.Connections, c.outcomes), 10)}
		if rates != nil {
			cell.text = perSecond(rates[c.name])
			if cell.style = styleFaint; rates[c.name] > 0 {
				cell.style = c.style
			}
		}
		row = append(row, cell)
	}
	return append(row, lockState(s))
}

func waitingOf(s *status.Lock) string {
	if s.MaxWaiting == nil {
		return strconv.Itoa(s.Waiting)
	}
	return fmt.Sprintf("%d/%d", s.Waiting, *s.MaxWaiting)
}

// waitFigure formats one of the figures of s.Waits.
func waitFigure(s *status.Lock, figure float64) string {
	if s.Waits.Count == 0 {
		return "-"
	}
	return text.Brief(seconds(figure))
}

func perSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0/s"
	case rate < 0.1:
		return "<0.1/s"
	case rate < 10:
		return strconv.FormatFloat(rate, 'f', 1, 64) + "/s"
	}
	return strconv.FormatFloat(rate, 'f', 0, 64) + "/s"
}

func sum(counts map[string]uint64, of []string) (n uint64) {
	for _, name := range of {
		n += counts[name]
	}
	return n
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
	add := func(as style, text string) {
		what = append(what, text)
		seen = max(seen, as)
	}
	if s.Failing != nil {
		add(styleAlarm, "failing")
	}
	if p := s.Paused; p != nil {
		words := "paused"
		if d := s.Now.Sub(p.Since); d >= time.Second {
			words += " for " + text.Brief(d)
		}
		if p.Until != nil {
			words += " (" + text.Brief(p.Until.Sub(s.Now).Round(time.Second)) + " left)"
		}
		add(styleNotice, words)
	}
	if s.Exclusive {
		add(styleNotice, "hooks alone")
	}
	if lineIsSlow(s) {
		add(styleNotice, "slow")
	}
	if down := workersDown(s); down > 0 {
		add(styleAlarm, fmt.Sprintf("%d of %s down", down, opts.Count(len(s.Workers), "worker")))
	}
	if s.LeftOver > 0 {
		add(styleNotice, fmt.Sprintf("%d left over", s.LeftOver))
	}
	if what == nil {
		return span{text: "open"}
	}
	return span{strings.Join(what, ", "), seen}
}

// failingLines says why a lock's activate hooks refuse connections. It returns nil if they do not.
func failingLines(s *status.Lock) []textLine {
	f := s.Failing
	if f == nil {
		return nil
	}
	return []textLine{{{fmt.Sprintf("failing for %s, %s refused: %s", text.Brief(s.Now.Sub(f.Since)), opts.Count(int(f.Connections), "connection"), f.Error), styleAlarm}}}
}

func workersDown(s *status.Lock) (n int) {
	for _, w := range s.Workers {
		if w.State == status.WorkerOut || w.Process != nil && w.Process.Failed != "" {
			n++
		}
	}
	return n
}

// section is one of the lists of a lock.
type section struct {
	table table
	none  string   // stands in place of an empty table
	ids   []uint64 // of the rows' connections, if they are connections; 0: a free slot
	more  int      // how many entries the table does not have
}

// lines returns the section's table.
func (s *section) lines() []textLine {
	if len(s.table.rows) == 0 {
		return []textLine{{{text: s.none}}}
	}
	lines := s.table.lines(0)
	if s.more > 0 {
		lines = append(lines, textLine{{text: fmt.Sprintf("... and %d more", s.more)}})
	}
	return lines
}

// mostFree is the highest number of slots of a lock for which its free slots are listed.
const mostFree = 16

func holderSection(s *status.Lock) section {
	t := table{columns: []column{
		{title: "SLOT", right: true},
		{title: "ID", right: true, usual: 5},
		{title: "HOLDER", usual: 21},
		{title: "HELD", right: true, usual: 6},
		{title: "WAITED", right: true, spare: 2},
		{title: "IN", right: true, usual: 7, spare: 3},
		{title: "OUT", right: true, usual: 7, spare: 4},
		{title: "STATE", usual: 10},
		{title: "WORKER", spare: 1},
	}}
	var ids []uint64
	free := func(from, to int) {
		for slot := from; slot < to && s.Slots <= mostFree; slot++ {
			ids = append(ids, 0)
			t.row(span{strconv.Itoa(slot), styleFaint}, span{}, span{"free", styleFaint}, span{}, span{}, span{}, span{}, span{}, span{})
		}
	}
	next := 1
	for _, c := range s.Holders {
		free(next, c.Slot)
		next = c.Slot + 1
		ids = append(ids, c.ID)
		t.row(
			span{text: strconv.Itoa(c.Slot)},
			span{text: strconv.FormatUint(c.ID, 10)},
			span{text: c.Client},
			span{text: text.Brief(s.Now.Sub(c.Since))},
			span{text: text.Brief(seconds(c.WaitedSeconds))},
			span{text: bytesText(c.BytesIn)},
			span{text: bytesText(c.BytesOut)},
			span{text: c.State},
			span{text: c.Worker},
		)
	}
	free(next, s.Slots+1)
	return section{table: t, none: "no holders", ids: ids, more: s.Held - len(s.Holders)}
}

func lineSection(s *status.Lock) section {
	t := table{columns: []column{
		{title: "POSITION", right: true},
		{title: "ID", right: true, usual: 5},
		{title: "WAITER", usual: 21},
		{title: "WAITED", right: true},
		{title: "PRIORITY", right: true, spare: 1},
	}}
	var ids []uint64
	for _, c := range s.Waiters {
		ids = append(ids, c.ID)
		priority := ""
		if c.Priority != 0 {
			priority = strconv.Itoa(c.Priority)
		}
		t.row(
			span{text: strconv.Itoa(c.Position)},
			span{text: strconv.FormatUint(c.ID, 10)},
			span{text: c.Client},
			span{text: text.Brief(seconds(c.WaitedSeconds))},
			span{text: priority},
		)
	}
	return section{table: t, none: "no waiters", ids: ids, more: s.Waiting - len(s.Waiters)}
}

func workerSection(s *status.Lock) section {
	t := table{columns: []column{
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
		row := []span{{text: strconv.Itoa(w.Slot)}, {text: w.Address}, state}
		t.row(append(row, processCells(w.Process, s.Now)...)...)
	}
	return section{table: t}
}

func processCells(p *status.Process, now time.Time) []span {
	if p == nil {
		return make([]span, 6)
	}
	pid := ""
	if p.PID != 0 {
		pid = strconv.Itoa(p.PID)
	}
	reason := span{text: p.LastReason}
	switch {
	case p.Failed != "":
		reason = span{p.Failed, styleAlarm}
	case p.Due != "":
		reason = span{"due: " + p.Due, styleNotice}
	}
	return []span{
		{text: p.State},
		{text: text.Brief(now.Sub(p.Since))},
		{text: pid},
		{text: strconv.Itoa(p.Connections)},
		{text: restarts(p)},
		reason,
	}
}

// restarts returns the restarts by reason.
func restarts(p *status.Process) string {
	var each []string
	for _, reason := range slices.Sorted(maps.Keys(p.Restarts)) {
		each = append(each, fmt.Sprintf("%d %s", p.Restarts[reason], reason))
	}
	if each == nil {
		return "0"
	}
	return strings.Join(each, ", ")
}

func eventSection(s *status.Lock) section {
	t := table{columns: []column{
		{title: "AGO", right: true, usual: 6},
		{title: "EVENT", usual: 11},
		{title: "SLOT", right: true},
		{title: "ID", right: true, usual: 5},
		{title: "CLIENT", usual: 21, spare: 1},
		{title: "WHAT", least: 15},
	}}
	for _, e := range s.Events {
		t.row(
			span{text: text.Brief(s.Now.Sub(e.Time))},
			span{text: e.Event},
			span{text: unlessZero(uint64(e.Slot))},
			span{text: unlessZero(e.Connection)},
			span{text: e.Client},
			span{text: eventText(&e)},
		)
	}
	return section{table: t, none: "no events"}
}

func eventText(e *status.Event) string {
	var what []string
	for _, s := range []string{e.Moment, e.Reason, e.Error} {
		if s != "" {
			what = append(what, s)
		}
	}
	text := strings.Join(what, ": ")
	if e.Count > 1 {
		text = strings.TrimSpace(fmt.Sprintf("%s (%d times)", text, e.Count))
	}
	return text
}

func unlessZero(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
