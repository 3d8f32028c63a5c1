package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// view returns the lines of a screen of that size.
func (t *top) view(width, height int) []textLine {
	if height < 1 {
		return nil
	}
	lines := []textLine{t.header(width), t.trouble()}
	switch {
	case t.help:
		lines = append(lines, helpLines...)
	case t.answered.IsZero():
	case t.selected() == nil:
		lines = append(lines, textLine{{text: " no locks in the config of this Caddy"}})
	default:
		const footer = 2
		body := t.lockList(width, max(4, height/3))
		body = append(body, nil)
		body = append(body, t.lockHead(width, height < roomy)...)
		body = append(body, t.lockBody(width, height-footer-len(lines)-len(body))...)
		if t.err != nil { // out of date
			for i, l := range body {
				body[i] = l.with(styleFaint)
			}
		}
		lines = append(lines, body...)
	}
	lines = lines[:min(len(lines), height-1)]
	for len(lines) < height-1 {
		lines = append(lines, nil)
	}
	lines = append(lines, t.footer())
	for i := range lines {
		lines[i] = lines[i].plain().cut(width)
	}
	return lines
}

func (t *top) header(width int) textLine {
	left := textLine{{" tcplock", styleStrong}, {text: "  Caddy at " + t.address}}
	right := "every " + t.interval.String()
	if !t.at.IsZero() {
		right += "  " + t.at.Format(time.TimeOnly)
	}
	right += " "
	space := max(2, width-len(left.String())-len(right))
	return append(left, span{text: strings.Repeat(" ", space)}, span{right, styleFaint})
}

// trouble says that Caddy does not answer, or that two Caddys do.
func (t *top) trouble() textLine {
	switch {
	case t.err == nil && t.warning == "":
		return nil
	case t.err == nil:
		return textLine{{" " + t.warning, styleAlarm}}
	}
	since := ""
	if !t.answered.IsZero() {
		since = "No answer for " + text.Brief(t.at.Sub(t.answered)) + ": "
	}
	return textLine{{" " + since + t.err.Error(), styleAlarm}}
}

// footer shows the keys, or a question, or the result of the last order.
func (t *top) footer() textLine {
	switch {
	case t.question != nil && t.connection != nil:
		return textLine{{fmt.Sprintf(" Kick connection %d (%s, %s)? y/n", t.connection.ID, t.connection.Client, t.connection.State), styleNotice}}
	case t.note.text != "":
		return textLine{{" " + t.note.text, t.note.style}}
	case t.help:
		return textLine{{" any key: back", styleFaint}}
	}
	var l textLine
	for _, key := range [][2]string{{"↑↓", "lock"}, {"Tab", "connection"}, {"p", "pause"}, {"r", "resume"}, {"k", "kick"}, {"R", "restart"}, {"?", "help"}, {"q", "quit"}} {
		l = append(l, span{" " + key[0], styleStrong}, span{" " + key[1] + " ", styleFaint})
	}
	return l
}

// mark stands before the selected row.
const mark = "▸ "

// window returns a table's title and the rows that fit into height. They include the selected
// row; selected is its index, or -1. more counts entries that the table does not have.
func (t *table) window(width, height, selected, more int) []textLine {
	all := t.lines(width - len(" ") - len("  "))
	title, rows := all[0], all[1:]
	first, last := 0, len(rows)
	if len(rows)+min(more, 1) > height-1 {
		fit := max(height-2, 1)
		first = max(0, min(selected-fit/2, len(rows)-fit))
		last = min(first+fit, len(rows))
	}
	lines := []textLine{append(textLine{{text: "   "}}, title...)}
	for i, row := range rows[first:last] {
		if first+i == selected {
			row = append(textLine{{text: " " + mark}}, row...)
			lines = append(lines, row.pad(width).with(styleSelected))
		} else {
			lines = append(lines, append(textLine{{text: "   "}}, row...))
		}
	}
	more += len(rows) - last
	switch {
	case first > 0:
		lines = append(lines, textLine{{fmt.Sprintf("   ... and %d before, %d after", first, more), styleFaint}})
	case more > 0:
		lines = append(lines, textLine{{fmt.Sprintf("   ... and %d more", more), styleFaint}})
	}
	return lines
}

func (t *top) lockList(width, height int) []textLine {
	table := locksTable()
	selected := -1
	for i := range t.locks {
		s := &t.locks[i]
		table.row(lockRow(s, t.rates(s.Name))...)
		if s.Name == t.lock {
			selected = i
		}
	}
	return table.window(width, height, selected, 0)
}

// lockHead returns the figures of the selected lock. On a short screen, it leaves out those that
// the list of locks has too.
func (t *top) lockHead(width int, short bool) []textLine {
	s := t.selected()
	rates := t.rates(s.Name)
	ended := textLine{{text: " "}}
	for _, c := range classes {
		figure := span{text: perSecond(rates[c.name]) + "  "}
		if figure.style = styleFaint; rates[c.name] > 0 {
			figure.style = c.style
		}
		ended = append(ended, span{c.name + " ", styleFaint}, figure)
	}
	waits := textLine{{" waits ", styleFaint}}
	for _, w := range []struct {
		name string
		s    float64
	}{{"p50", s.Waits.P50Seconds}, {"p90", s.Waits.P90Seconds}, {"p99", s.Waits.P99Seconds}, {"longest", s.Waits.MaxSeconds}} {
		waits = append(waits, span{w.name + " ", styleFaint}, span{text: waitFigure(s, w.s) + "  "})
	}
	if n, any := allRestarts(s); any {
		waits = append(waits, span{"restarts ", styleFaint}, span{text: fmt.Sprint(n)})
	}
	title := textLine{{" " + s.Name, styleStrong}, {text: "  "}, lockState(s)}
	title = append(title, t.pastLine(width-len(title.String())-len("  "))...)
	lines := []textLine{title}
	for _, why := range failingLines(s) {
		lines = append(lines, append(textLine{{text: " "}}, why...))
	}
	if !short {
		lines = append(lines, ended)
	}
	return append(lines, waits)
}

// levels are the heights of the points of a plot.
const levels = "▁▂▃▄▅▆▇█"

// pastLine returns a plot of the length of the selected lock's line, one point for each poll. The
// plot ends at the right of the room that it gets.
func (t *top) pastLine(room int) textLine {
	past := t.pasts[t.lock]
	most := 0
	for _, p := range past {
		most = max(most, p.waiting)
	}
	label, scale := "waiting ", fmt.Sprintf(" max %d", most)
	wide := min(room-len(label)-len(scale)-1, keptPolls)
	if wide < 20 || most == 0 {
		return nil
	}
	levels := []rune(levels)
	var picture strings.Builder
	for _, p := range past[max(0, len(past)-wide):] {
		picture.WriteRune(levels[(p.waiting*(len(levels)-1)+most-1)/most])
	}
	space := room - len(label) - min(wide, len(past)) - len(scale) - 1
	return textLine{{text: strings.Repeat(" ", 2+space)}, {label, styleFaint}, {text: picture.String()}, {scale, styleFaint}}
}

// allRestarts counts the restarts of all the lock's processes. any says whether it has processes.
func allRestarts(s *status.Lock) (n int, any bool) {
	for _, w := range s.Workers {
		if w.Process != nil {
			any = true
			for _, times := range w.Process.Restarts {
				n += times
			}
		}
	}
	return n, any
}

// lockBody returns the lists of the selected lock, side by side on a wide screen. The line changes
// its length all the time. So it gets the room that the others leave, and they do not move.
func (t *top) lockBody(width, height int) []textLine {
	s := t.selected()
	holders, line, workers, events := holderSection(s), lineSection(s), workerSection(s), eventSection(s)
	if len(s.Workers) == 0 {
		workers = section{}
	}
	if width < wide {
		var room stack
		room.add(t, width, &holders, min(holders.height(), max(leastLines, height*3/5)))
		if h := height - len(room) - min(line.height(), leastLines); h >= leastLines {
			room.add(t, width, &workers, min(workers.height(), h))
		}
		left := height - len(room)
		last := min(events.height(), left/3)
		if last < leastLines-1 {
			last = 0
		}
		room.add(t, width, &line, left-last)
		room.add(t, width, &events, last)
		return room
	}
	var left, right stack
	half := width * 53 / 100
	left.add(t, half, &holders, min(holders.height(), height/2))
	left.add(t, half, &line, height-len(left))
	right.add(t, width-half, &workers, min(workers.height(), height/2))
	right.add(t, width-half, &events, height-len(right))
	for y := range left {
		if y < len(right) && len(right[y]) > 0 {
			left[y] = append(left[y].pad(half), right[y]...)
		}
	}
	return left
}

const (
	wide       = 140 // so many columns or more: lists stand side by side
	roomy      = 30  // so many lines or more: there is room for all figures
	leastLines = 4   // of a list: an empty line, the titles, a row, how many more there are
)

// stack is a column of lists.
type stack []textLine

// add puts a list below the others. It adds exactly height lines, or none if height is too small
// or the list has nothing to show.
func (s *stack) add(t *top, width int, part *section, height int) {
	if height < 2 || part.none == "" && len(part.table.rows) == 0 {
		return
	}
	end := len(*s) + height
	*s = append(append(*s, nil), part.window(width, height-1, t.connection)...)
	for len(*s) < end {
		*s = append(*s, nil)
	}
	*s = (*s)[:end]
}

// height returns how many lines the section needs, with an empty line before it.
func (s *section) height() int {
	return 2 + len(s.table.rows) + min(max(s.more, 0), 1)
}

func (s *section) window(width, height int, selected *status.Connection) []textLine {
	if len(s.table.rows) == 0 {
		return []textLine{{{"   " + s.none, styleFaint}}}
	}
	i := -1
	if selected != nil {
		i = slices.Index(s.ids, selected.ID)
	}
	return s.table.window(width, height, i, max(s.more, 0))
}

var helpLines = []textLine{
	{{text: "   ↑ ↓             select a lock"}},
	{{text: "   Tab, Shift-Tab  select one of its connections, also with → ←; Esc: none"}},
	{{text: "   p               pause the lock: it admits no connection, the line grows"}},
	{{text: "   r               resume it"}},
	{{text: "   k               kick the selected connection; top asks first"}},
	{{text: "   R               restart the lock's service, between two clients of each slot"}},
	{{text: "   q               quit"}},
	nil,
	{{text: "   SERVED, REFUSED, FAILED and GONE are connections a second, over the last 10"}},
	{{text: "   seconds. P50 and P99 are the time in line that 50 and 99 of 100 did not"}},
	{{text: "   exceed, of the last 256 connections that got a slot."}},
	nil,
	{{text: "   failing         the activate hooks refuse connections"}},
	{{text: "   slow            the oldest waiter has been in line for more than 10s, and"}},
	{{text: "                   longer than any of those 256"}},
	{{text: "   hooks alone     the lock admits no connection while hooks run that must be"}},
	{{text: "                   alone, or wait to be alone"}},
	{{text: "   left over       connections that lost their slot and are still open at the"}},
	{{text: "                   service"}},
}
