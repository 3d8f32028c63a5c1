package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
)

// style is what a piece of text means. The text says the same, because some terminals have no
// colours, and some users see none.
type style int

const (
	styleFaint    style = 1 << iota // less important; or out of date, whatever else it is
	styleStrong                     // a title
	styleNotice                     // an operator should know
	styleAlarm                      // something fails
	styleSelected                   // added to another style: the selected row

	stylePlain style = 0
)

// span is a piece of text with one style.
type span struct {
	text  string
	style style
}

// textLine is one line of output.
type textLine []span

func (l textLine) String() string {
	var sb strings.Builder
	for _, s := range l {
		sb.WriteString(s.text)
	}
	return strings.TrimRight(sb.String(), " ")
}

// fit returns the line as a screen can show it: at most width characters, all of which can be printed.
func (l textLine) fit(width int) (fits textLine) {
	for i, s := range l {
		s.text = text.Printable(s.text)
		runes := []rune(s.text)
		if len(runes) <= width {
			fits = append(fits, s)
			width -= len(runes)
			continue
		}
		s.text = string(runes[:max(width-1, 0)])
		if width > 0 && l[i:].String() != "" {
			s.text += "…"
		}
		return append(fits, s)
	}
	return fits
}

// pad fills a line with blanks to width characters.
func (l textLine) pad(width int) textLine {
	for _, s := range l {
		width -= utf8.RuneCountInString(s.text)
	}
	return append(slices.Clip(l), span{text: strings.Repeat(" ", max(0, width))})
}

// with returns the line with a style added to all of it.
func (l textLine) with(add style) textLine {
	l = slices.Clone(l)
	for i := range l {
		l[i].style |= add
	}
	return l
}

// printLines writes lines as plain text.
func printLines(w io.Writer, lines []textLine) error {
	var sb strings.Builder
	for _, l := range lines {
		sb.WriteString(text.Printable(l.String()) + "\n")
	}
	_, err := io.WriteString(w, sb.String())
	return err
}

// table has columns that are as wide as their contents.
type table struct {
	columns []column
	rows    []row
	none    string // stands in place of an empty table; empty: the table is left out
	more    int    // how many entries there are besides those in rows
}

// column is a column of a table. It is left out if it is empty in every row.
type column struct {
	title string
	right bool // aligned to the right, as numbers are
	usual int  // on a screen at least this wide, so that columns do not move with their contents
	spare int  // on a narrow screen, the column with the highest goes first; 0: it stays
	least int  // on a narrow screen, its text is cut with … to no less than this; 0: it is not cut
}

type row struct {
	key   any // of what the user can select, or nil
	cells []span
}

// add adds a row. A cell is a span, a text, a time, or a number, which is left out if it is 0.
func (t *table) add(key any, cells ...any) {
	r := row{key, make([]span, len(t.columns))}
	for i, cell := range cells {
		switch cell := cell.(type) {
		case span:
			r.cells[i] = cell
		case string:
			r.cells[i].text = cell
		case time.Duration:
			r.cells[i].text = text.Brief(cell)
		default:
			r.cells[i].text = strings.TrimPrefix(fmt.Sprint(cell), "0")
		}
	}
	t.rows = append(t.rows, r)
}

// leftOut reports whether there is nothing to show.
func (t *table) leftOut() bool { return t.none == "" && len(t.rows) == 0 }

// height returns how many lines the table needs on a screen, with an empty line before it.
func (t *table) height() int { return 2 + len(t.rows) + min(max(t.more, 0), 1) }

const (
	gap    = "  "  // between two columns
	margin = "   " // before the rows on a screen
	mark   = " ▸ " // before the selected row
)

// lines returns the titles, the rows, and how many more there are. With a width they fit a screen of
// that size, with a margin, and include the row with the selected key.
func (t *table) lines(width, height int, selected any) []textLine {
	edge := span{}
	if width > 0 {
		edge.text = margin
	}
	if len(t.rows) == 0 {
		return []textLine{{edge, {t.none, styleFaint}}}
	}
	isSelected := func(r row) bool { return r.key != nil && r.key == selected }
	first, last, more := 0, len(t.rows), max(t.more, 0)
	if width > 0 && last+min(more, 1) > height-1 {
		fit := max(height-2, 1)
		first = max(0, min(slices.IndexFunc(t.rows, isSelected)-fit/2, last-fit))
		last = min(first+fit, last)
		more += len(t.rows) - last
	}
	titles := row{cells: make([]span, len(t.columns))}
	for i, c := range t.columns {
		titles.cells[i] = span{c.title, styleStrong}
	}
	widths := t.widths(width - len(margin))
	var lines []textLine
	for _, r := range append([]row{titles}, t.rows[first:last]...) {
		l := t.line(edge, r.cells, widths)
		if isSelected(r) {
			l[0].text = mark
			l = l.pad(width).with(styleSelected)
		}
		lines = append(lines, l)
	}
	switch {
	case first > 0:
		lines = append(lines, textLine{edge, {fmt.Sprintf("... and %d before, %d after", first, more), styleFaint}})
	case more > 0:
		lines = append(lines, textLine{edge, {fmt.Sprintf("... and %d more", more), styleFaint}})
	}
	return lines
}

// widths returns the widths of the columns, 0 for one that is left out. If room is not positive,
// they are the widths of the contents. Otherwise columns get their usual width, as far as there is
// room.
func (t *table) widths(room int) []int {
	full := make([]int, len(t.columns))
	for i, c := range t.columns {
		for _, r := range t.rows {
			full[i] = max(full[i], utf8.RuneCountInString(r.cells[i].text))
		}
		if full[i] > 0 {
			full[i] = max(full[i], len(c.title))
		}
	}
	if room <= 0 {
		return full
	}
	widths := slices.Clone(full)
	room += len(gap)
	for i, c := range t.columns {
		if full[i] == 0 {
			continue
		}
		full[i] = max(full[i], c.usual)
		if widths[i] = full[i]; c.least > 0 {
			widths[i] = min(full[i], c.least)
		}
		room -= len(gap) + widths[i]
	}
	for spare := len(t.columns); spare > 0 && room < 0; spare-- {
		for i, c := range t.columns {
			if c.spare == spare && widths[i] > 0 {
				room += len(gap) + widths[i]
				full[i], widths[i] = 0, 0
			}
		}
	}
	for i := range widths { // narrowed columns get the room that is left
		more := min(full[i]-widths[i], max(0, room))
		widths[i] += more
		room -= more
	}
	return widths
}

func (t *table) line(edge span, cells []span, widths []int) textLine {
	l := textLine{edge}
	for i, c := range cells {
		if widths[i] == 0 {
			continue
		}
		if len(l) > 1 {
			l = append(l, span{text: gap})
		}
		c.text = textLine{c}.fit(widths[i]).String()
		pad := span{text: strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))}
		if t.columns[i].right {
			l = append(l, pad, c)
		} else {
			l = append(l, c, pad)
		}
	}
	return l
}

// seconds returns a number of seconds as a duration.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second))
}
