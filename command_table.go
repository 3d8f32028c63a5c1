package tcplock

import (
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
)

// style is what a piece of text means. Whatever a style says, the text says too: there
// are terminals without colours, and readers.
type style int

const (
	stylePlain  style = iota
	styleFaint        // less important, or out of date
	styleStrong       // a title
	styleNotice       // somebody should know
	styleAlarm        // somebody should do something

	styleChosen style = 1 << 8 // added to another one: the row that keys work on
)

// span is a piece of text that looks one way.
type span struct {
	text  string
	style style
}

// textLine is one line of what is shown.
type textLine []span

func (l textLine) String() string {
	var sb strings.Builder
	for _, s := range l {
		sb.WriteString(s.text)
	}
	return strings.TrimRight(sb.String(), " ")
}

// table is aligned by its contents.
type table struct {
	columns []column
	rows    [][]span
}

// column is one column of a table. It is left out if it is empty in every row.
type column struct {
	title string
	right bool // numbers end below each other
	usual int  // its width where there is one to keep to, so that columns stay where they are
	spare int  // where there is no room for all, the highest goes first; 0 stays
	least int  // the width that it can do with, its text being cut with …; 0: it needs all
}

// row adds one. What cannot be printed is replaced here already, so that columns stay aligned.
func (t *table) row(cells ...span) {
	for i := range cells {
		cells[i].text = text.Printable(cells[i].text)
	}
	t.rows = append(t.rows, cells)
}

// gap is the space between two columns.
const gap = 2

// lines lays the table out: the title line, then a line for each row. They are as wide as
// their contents are, or if width is not 0, for a screen of that width.
func (t *table) lines(width int) []textLine {
	widths := t.widths()
	if width > 0 {
		t.fit(widths, width)
	}
	titles := make([]span, len(t.columns))
	for i, c := range t.columns {
		titles[i] = span{c.title, styleStrong}
	}
	lines := []textLine{t.line(titles, widths)}
	for _, row := range t.rows {
		lines = append(lines, t.line(row, widths))
	}
	return lines
}

// widths are those of the columns' contents, 0 for one that is left out.
func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
		if widths[i] > 0 {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.title))
		}
	}
	return widths
}

// fit widens columns to what they usually need, leaves out those that can be spared until the
// rest fits, and cuts those that can do with less.
func (t *table) fit(widths []int, width int) {
	narrow := func(i int) int {
		if least := t.columns[i].least; least > 0 {
			return min(least, widths[i])
		}
		return widths[i]
	}
	needed := -gap
	for i, c := range t.columns {
		if widths[i] == 0 {
			continue
		}
		widths[i] = max(widths[i], c.usual)
		needed += gap + narrow(i)
	}
	for needed > width {
		last := -1
		for i, c := range t.columns {
			if widths[i] > 0 && c.spare > 0 && (last < 0 || c.spare > t.columns[last].spare) {
				last = i
			}
		}
		if last < 0 {
			break
		}
		needed -= gap + narrow(last)
		widths[last] = 0
	}
	for i := range t.columns { // what is left goes to those that can do with less
		more := min(widths[i]-narrow(i), max(0, width-needed))
		widths[i] = narrow(i) + more
		needed += more
	}
}

func (t *table) line(cells []span, widths []int) (l textLine) {
	for i, c := range cells {
		if widths[i] == 0 {
			continue
		}
		if len(l) > 0 {
			l = append(l, span{text: strings.Repeat(" ", gap)})
		}
		c.text = textLine{c}.cut(widths[i]).String()
		pad := span{text: strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))}
		if t.columns[i].right {
			l = append(l, pad, c)
		} else {
			l = append(l, c, pad)
		}
	}
	return l
}

// cut shortens a line to a width.
func (l textLine) cut(width int) textLine {
	for i, s := range l {
		n := utf8.RuneCountInString(s.text)
		if n <= width {
			width -= n
			continue
		}
		cut := "…"
		if width == 0 || l[i:].String() == "" {
			cut = ""
		}
		s.text = string([]rune(s.text)[:max(width-1, 0)]) + cut
		return append(slices.Clone(l[:i]), s)
	}
	return l
}

// pad makes a line as wide as that.
func (l textLine) pad(width int) textLine {
	for _, s := range l {
		width -= utf8.RuneCountInString(s.text)
	}
	return append(slices.Clip(l), span{text: strings.Repeat(" ", max(0, width))})
}

// plain is the line without what cannot be printed.
func (l textLine) plain() textLine {
	l = slices.Clone(l)
	for i := range l {
		l[i].text = text.Printable(l[i].text)
	}
	return l
}

// with adds a style to a whole line.
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
		sb.WriteString(text.Printable(l.String()))
		sb.WriteByte('\n')
	}
	_, err := io.WriteString(w, sb.String())
	return err
}

// seconds is a number of seconds as a duration.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second))
}
