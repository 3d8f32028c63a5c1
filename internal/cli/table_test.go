package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// printed returns lines as plain text.
func printed(lines []textLine) string {
	var out strings.Builder
	_ = printLines(&out, lines)
	return out.String()
}

// onScreen returns the first row of a table, on a screen of so many columns besides the margin.
func onScreen(t *table, columns int) string {
	row := t.lines(columns+len(margin), 5, nil)[1].fit(columns + len(margin)).String()
	return strings.TrimPrefix(row, margin)
}

// Columns are as wide as their contents. Empty columns are left out. What cannot be printed is
// replaced.
func TestTable(t *testing.T) {
	table := table{columns: []column{{title: "NAME"}, {title: "N", right: true}, {title: "EMPTY"}, {title: "LAST"}}}
	table.add(nil, "a", 1, 0, "x\x1b[31my\u202e")
	table.add(nil, "longer", 1000, "", "größe")
	want := `
NAME       N  LAST
a          1  x?[31my?
longer  1000  größe
`
	if got := printed(table.lines(0, 0, nil)); got != want[1:] {
		t.Errorf("got\n%swant%s", got, want)
	}
}

// On a narrow screen columns are left out, the one with the highest spare first, and columns with a
// least width are cut.
func TestTableFits(t *testing.T) {
	table := table{columns: []column{{title: "A"}, {title: "B", spare: 1}, {title: "C", usual: 4, spare: 2}, {title: "D", least: 3}}}
	table.add(nil, "aaaa", "bbbb", "c", "dddddddd")
	for width, want := range map[int]string{
		80: "aaaa  bbbb  c     dddddddd",
		21: "aaaa  bbbb  c     dd…",
		20: "aaaa  bbbb  dddddddd",
		15: "aaaa  bbbb  dd…",
		14: "aaaa  dddddddd",
		9:  "aaaa  dd…",
		5:  "aaaa…",
		1:  "…",
	} {
		if got := onScreen(&table, width); got != want {
			t.Errorf("%d columns: got %q, expected %q", width, got, want)
		}
	}
}

// A long text in the first column leaves room for the columns after it.
func TestTableCutsLongNames(t *testing.T) {
	table := table{columns: []column{{title: "NAME", least: 6}, {title: "N", right: true}, {title: "STATE", least: 4}}}
	table.add(nil, "a-name-of-some-length", 12, "open")
	table.add(nil, "short", 1, "paused")
	for width, want := range map[int]string{
		80: "a-name-of-some-length  12  open",
		31: "a-name-of-some-length  12  open",
		20: "a-name-of…  12  open",
		16: "a-nam…  12  open",
	} {
		if got := onScreen(&table, width); got != want {
			t.Errorf("%d columns: got %q, expected %q", width, got, want)
		}
	}
}

// No control character that a hostile server sends reaches the terminal, in whatever field it is.
func TestPrintedIsPlain(t *testing.T) {
	const hostile, plain = "a\x1b[31m\u202eb\x07\n", "a?[31m?b??\n"
	if got := printed([]textLine{{{text: hostile}}}); got != plain {
		t.Errorf("a line: got %q, expected %q", got, plain)
	}
	var out strings.Builder
	c := &call{Command: new(cobra.Command)}
	c.SetOut(&out)
	c.say("%s", hostile)
	if got := out.String(); got != plain {
		t.Errorf("said: got %q, expected %q", got, plain)
	}
}
