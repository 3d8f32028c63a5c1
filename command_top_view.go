package tcplock

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// view is what top shows on a screen of that size.
func (t *top) view(width, height int) []textLine {
	if height < 1 {
		return nil
	}
	lines := []textLine{t.header(width), t.trouble()}
	switch {
	case t.help:
		lines = append(lines, helpLines...)
	case t.answered.IsZero():
	case t.chosen() == nil:
		lines = append(lines, textLine{{text: " no locks in the config of this Caddy"}})
	default:
		const footer = 2
		body := t.lockList(width, max(4, height/3))
		body = append(body, nil)
		body = append(body, t.lockHead(width, height < roomy)...)
		body = append(body, t.lockBody(width, height-footer-len(lines)-len(body))...)
		if t.err != nil { // it was so
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

// trouble says that Caddy does not answer, or that two do.
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

// footer is where the keys are, or what is to be answered, or what came of it.
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

// mark goes in front of the rows, and marks the chosen one.
const mark = "▸ "

// rows are a table's title and those rows of it for which there is room, among them the
// chosen one if there is one (chosen is its index, or -1). more is how many others there
// are that the table does not have.
func (t *table) window(width, height, chosen, more int) []textLine {
	all := t.lines(width - len(" ") - len("  "))
	title, rows := all[0], all[1:]
	first, last := 0, len(rows)
	if len(rows)+min(more, 1) > height-1 {
		fit := max(height-2, 1)
		first = max(0, min(chosen-fit/2, len(rows)-fit))
		last = min(first+fit, len(rows))
	}
	lines := []textLine{append(textLine{{text: "   "}}, title...)}
	for i, row := range rows[first:last] {
		if first+i == chosen {
			row = append(textLine{{text: " " + mark}}, row...)
			lines = append(lines, row.pad(width).with(styleChosen))
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
	chosen := -1
	for i := range t.locks {
		s := &t.locks[i]
		table.row(lockRow(s, t.rates(s.Name))...)
		if s.Name == t.lock {
			chosen = i
		}
	}
	return table.window(width, height, chosen, 0)
}

// lockHead is the chosen lock in figures; where there is little room, without those that
// the list has.
func (t *top) lockHead(width int, short bool) []textLine {
	s := t.chosen()
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

// levels are the heights of a picture of figures.
const levels = "▁▂▃▄▅▆▇█"

// pastLine is a picture of how many stood in the chosen lock's line at the last looks, at
// the end of a line that has so much room.
func (t *top) pastLine(room int) textLine {
	past := t.pasts[t.lock]
	most := 0
	for _, p := range past {
		most = max(most, p.waiting)
	}
	label, scale := "waiting ", fmt.Sprintf(" max %d", most)
	wide := min(room-len(label)-len(scale)-1, keptLooks)
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

// allRestarts counts those of all the lock's processes; any is whether it has some.
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

// lockBody are the chosen lock's lists, on wide screens side by side. What changes its
// length all the time, the line, gets the room that is left by what does not, so that
// nothing else moves.
func (t *top) lockBody(width, height int) []textLine {
	s := t.chosen()
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
	wide       = 140 // columns from which on lists stand side by side
	roomy      = 30  // lines from which on there is room for all
	leastLines = 4   // of a list: an empty one, the titles, a row, how many more there are
)

// stack is lists one below the other.
type stack []textLine

// add puts a list below the others, and takes up exactly so many lines.
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

// height is how many lines it wants, with an empty one before it.
func (s *section) height() int {
	return 2 + len(s.table.rows) + min(max(s.more, 0), 1)
}

func (s *section) window(width, height int, chosen *status.Connection) []textLine {
	if len(s.table.rows) == 0 {
		return []textLine{{{"   " + s.none, styleFaint}}}
	}
	i := -1
	if chosen != nil {
		i = slices.Index(s.ids, chosen.ID)
	}
	return s.table.window(width, height, i, max(s.more, 0))
}

var helpLines = []textLine{
	{{text: "   ↑ ↓             choose a lock"}},
	{{text: "   Tab, Shift-Tab  choose one of its connections, also by → ←; Esc: none"}},
	{{text: "   p               pause the lock: nobody is admitted, the line grows"}},
	{{text: "   r               resume it"}},
	{{text: "   k               kick the chosen connection, after a question"}},
	{{text: "   R               restart its service, between two clients of each slot"}},
	{{text: "   q               quit"}},
	nil,
	{{text: "   SERVED, REFUSED, FAILED and GONE are those of the last 10 seconds; P50 and"}},
	{{text: "   P99, how long the last 256 that got a slot stood in line before."}},
	nil,
	{{text: "   failing         the activate hooks refuse connections"}},
	{{text: "   slow            the oldest waiter waits for over 10s, and longer than any of"}},
	{{text: "                   those 256 did"}},
	{{text: "   hooks alone     nobody is admitted, while hooks run that must be alone"}},
	{{text: "   left over       connections without a slot that still hang at the service"}},
}
