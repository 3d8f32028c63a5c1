package cli

import (
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
	stylePlain  style = iota
	styleFaint        // less important, or out of date
	styleStrong       // a title
	styleNotice       // an operator should know
	styleAlarm        // something fails

	styleSelected style = 1 << 8 // added to another style: the selected row
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

// table has columns that are as wide as their contents.
type table struct {
	columns []column
	rows    [][]span
}

// column is a column of a table. lines leaves it out if it is empty in every row.
type column struct {
	title string
	right bool // aligned to the right, as numbers are
	usual int  // on a screen at least this wide, so that columns do not move with their contents
	spare int  // on a narrow screen, the column with the highest goes first; 0: it stays
	least int  // on a narrow screen, its text is cut with … to no less than this; 0: it is not cut
}

// row adds a row. It replaces what cannot be printed, before lines measures the columns.
func (t *table) row(cells ...span) {
	for i := range cells {
		cells[i].text = text.Printable(cells[i].text)
	}
	t.rows = append(t.rows, cells)
}

// gap is the space between two columns.
const gap = 2

// lines returns the title line and a line for each row. If width is 0, they are as wide as
// their contents, or else they fit a screen of that width.
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

// widths returns the widths of the columns' contents, 0 for an empty column.
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

// fit widens columns to their usual width. Then it leaves out columns until the rest fits, and
// narrows those that have a least width.
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
	for i := range t.columns { // narrowed columns get the room that is left
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

// cut shortens a line to at most width characters.
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

// pad fills a line with blanks to width characters.
func (l textLine) pad(width int) textLine {
	for _, s := range l {
		width -= utf8.RuneCountInString(s.text)
	}
	return append(slices.Clip(l), span{text: strings.Repeat(" ", max(0, width))})
}

// plain returns the line with what cannot be printed replaced.
func (l textLine) plain() textLine {
	l = slices.Clone(l)
	for i := range l {
		l[i].text = text.Printable(l[i].text)
	}
	return l
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
		sb.WriteString(text.Printable(l.String()))
		sb.WriteByte('\n')
	}
	_, err := io.WriteString(w, sb.String())
	return err
}

// seconds returns a number of seconds as a duration.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second))
}
