package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
)

// view returns the lines of a screen of that size.
func (t *top) view(width, height int) []textLine {
	if height < 1 {
		return nil
	}
	lines := []textLine{t.header(width), t.trouble()}
	switch {
	case t.help:
		for l := range strings.Lines(help) {
			lines = append(lines, textLine{{text: margin + strings.TrimSuffix(l, "\n")}})
		}
	case t.answered.IsZero():
	case t.selected() == nil:
		lines = append(lines, textLine{{text: " no locks in the config of this Caddy"}})
	default:
		const footer = 2
		body := locksTable(t.locks, t.rate).lines(width, max(4, height/3), t.lock)
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
	lines = append(exactly(height-1, lines), t.footer())
	for i := range lines {
		lines[i] = lines[i].fit(width)
	}
	return lines
}

// exactly cuts lines, or adds empty ones, so that there are n.
func exactly(n int, lines []textLine) []textLine {
	return append(lines, make([]textLine, max(0, n-len(lines)))...)[:n]
}

func (t *top) header(width int) textLine {
	left := textLine{{" tcplock", styleStrong}, {text: "  Caddy at " + t.address + "  "}}
	right := "every " + t.interval.String()
	if !t.at.IsZero() {
		right += "  " + t.at.Format(time.TimeOnly)
	}
	return append(left.pad(width-len(right)-1), span{right + " ", styleFaint})
}

// trouble says that Caddy does not answer, or that two Caddys do.
func (t *top) trouble() textLine {
	words := " " + t.warning
	if t.err != nil {
		words = " " + t.err.Error()
	}
	if t.err != nil && !t.answered.IsZero() {
		words = " No answer for " + text.Brief(t.at.Sub(t.answered)) + ":" + words
	}
	return textLine{{words, styleAlarm}}
}

// footer shows the keys, or a question, or the result of the last order.
func (t *top) footer() textLine {
	switch c := t.connection; {
	case t.question != nil:
		return textLine{{fmt.Sprintf(" Kick connection %d (%s, %s)? y/n", c.ID, c.Client, c.State), styleNotice}}
	case t.note.text != "":
		return textLine{{" " + t.note.text, t.note.style}}
	case t.help:
		return textLine{{" any key: back", styleFaint}}
	}
	var l textLine
	const keys = "↑↓ lock,Tab connection,p pause,r resume,k kick,R restart,? help,q quit"
	for item := range strings.SplitSeq(keys, ",") {
		key, does, _ := strings.Cut(item, " ")
		l = append(l, span{" " + key, styleStrong}, span{" " + does + " ", styleFaint})
	}
	return l
}

// lockHead returns the figures of the selected lock. On a short screen, it leaves out those that
// the list of locks has too.
func (t *top) lockHead(width int, short bool) []textLine {
	s := t.selected()
	title := textLine{{" " + s.Name, styleStrong}, {text: "  "}, lockState(s)}
	lines := []textLine{append(title, t.pastLine(width-len(title.String())-len("  "))...)}
	if why := failing(s); why != nil {
		lines = append(lines, append(textLine{{text: " "}}, why...))
	}
	ended, waits := textLine{{text: " "}}, textLine{{" waits ", styleFaint}}
	for _, c := range classes {
		ended = append(ended, span{c.name + " ", styleFaint}, c.rate(t.rate(s.Name, &c)), span{text: "  "})
	}
	if !short {
		lines = append(lines, ended)
	}
	figures := []float64{s.Waits.P50Seconds, s.Waits.P90Seconds, s.Waits.P99Seconds, s.Waits.MaxSeconds}
	for i, name := range []string{"p50 ", "p90 ", "p99 ", "longest "} {
		waits = append(waits, span{name, styleFaint}, span{text: waitFigure(s, figures[i]) + "  "})
	}
	restarts, processes := 0, false
	for _, w := range s.Workers {
		if w.Process != nil {
			processes = true
			for _, times := range w.Process.Restarts {
				restarts += times
			}
		}
	}
	if processes {
		waits = append(waits, span{"restarts ", styleFaint}, span{text: fmt.Sprint(restarts)})
	}
	return append(lines, waits)
}

// levels are the heights of the points of a plot.
const levels = "▁▂▃▄▅▆▇█"

// pastLine returns a plot of the length of the selected lock's line, one point for each poll. The
// plot ends at the right of the room that it gets.
func (t *top) pastLine(room int) textLine {
	past, most := t.pasts[t.lock], 0
	for _, s := range past {
		most = max(most, s.Waiting)
	}
	const label = "waiting "
	scale := fmt.Sprintf(" max %d", most)
	wide := min(room-len(label)-len(scale)-1, keptPolls)
	if wide < 20 || most == 0 {
		return nil
	}
	past = past[max(0, len(past)-wide):]
	levels := []rune(levels)
	plot := make([]rune, len(past))
	for i, s := range past {
		plot[i] = levels[(s.Waiting*(len(levels)-1)+most-1)/most]
	}
	space := room - len(label) - len(past) - len(scale) + 1
	return textLine{{text: strings.Repeat(" ", space)}, {label, styleFaint}, {text: string(plot)}, {scale, styleFaint}}
}

// lockBody returns the lists of the selected lock, side by side on a wide screen. The line changes
// its length all the time. So it gets the room that the others leave, and they do not move.
func (t *top) lockBody(width, height int) (lines []textLine) {
	s := t.selected()
	holders, waiters, workers, events := holdersTable(s), waitersTable(s), workersTable(s), eventsTable(s)
	if width < wide {
		lines = t.list(holders, width, min(holders.height(), max(leastLines, height*3/5)))
		if h := height - len(lines) - min(waiters.height(), leastLines); h >= leastLines {
			lines = append(lines, t.list(workers, width, min(workers.height(), h))...)
		}
		left := height - len(lines)
		last := min(events.height(), left/3)
		if last < leastLines-1 {
			last = 0
		}
		lines = append(lines, t.list(waiters, width, left-last)...)
		return append(lines, t.list(events, width, last)...)
	}
	half := width * 53 / 100
	lines = t.list(holders, half, min(holders.height(), height/2))
	lines = append(lines, t.list(waiters, half, height-len(lines))...)
	right := t.list(workers, width-half, min(workers.height(), height/2))
	right = append(right, t.list(events, width-half, height-len(right))...)
	for i := range lines {
		if i < len(right) && len(right[i]) > 0 {
			lines[i] = append(lines[i].pad(half), right[i]...)
		}
	}
	return lines
}

const (
	wide       = 140 // so many columns or more: lists stand side by side
	roomy      = 30  // so many lines or more: there is room for all figures
	leastLines = 4   // of a list: an empty line, the titles, a row, how many more there are
)

// list returns exactly height lines, an empty one and a table. It returns none if height is too
// small or the table is left out.
func (t *top) list(part *table, width, height int) []textLine {
	if height < 2 || part.leftOut() {
		return nil
	}
	var selected any
	if t.connection != nil {
		selected = t.connection.ID
	}
	return exactly(height, append([]textLine{nil}, part.lines(width, height-1, selected)...))
}

const help = `↑ ↓             select a lock
Tab, Shift-Tab  select one of its connections, also with → ←; Esc: none
p               pause the lock: it admits no connection, the line grows
r               resume it
k               kick the selected connection; top asks first
R               restart the lock's service, between two clients of each slot
q               quit

SERVED, REFUSED, FAILED and GONE are connections a second, over the last 10
seconds. P50 and P99 are the time in line that 50 and 99 of 100 did not
exceed, of the last 256 connections that got a slot.

failing         the activate hooks refuse connections
slow            the oldest waiter has been in line for more than 10s, and
                longer than any of those 256
hooks alone     the lock admits no connection while hooks run that must be
                alone, or wait to be alone
left over       connections that lost their slot and are still open at the
                service
`
