package proc

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Explain adds the first line that is not empty to the error: at most 200 bytes, in printable
// characters. An empty output adds nothing.
func TestOutputErrorLine(t *testing.T) {
	long := strings.Repeat("é", 150)
	for printed, want := range map[string]string{
		"":                            "exit status 1",
		" \n\t\n":                     "exit status 1",
		"\n  no printer \r\nsecond\n": "exit status 1: no printer",
		"a\x1b[2Jb\u202ec\xff":        "exit status 1: a?[2Jb?c?",
		long:                          "exit status 1: " + long[:196] + "…",
	} {
		o := new(Output)
		_, _ = o.Write([]byte(printed))
		if got := o.Explain(errors.New("exit status 1")).Error(); got != want {
			t.Errorf("%q: found %q, expected %q", printed, got, want)
		}
		if err := o.Explain(nil); err != nil {
			t.Errorf("%q: found %v of a command that went well, expected no error", printed, err)
		}
	}
}

// What is kept of an output does not depend on the sizes of the writes. Nothing is kept twice: the
// end only has bytes that did not fit into the first part.
func TestOutputPieces(t *testing.T) {
	const line = "0123456789\n"
	for _, test := range []struct {
		size    int
		end     string
		dropped int64
	}{
		{8192, "", 0},
		{8195, "89", 3},
		{11000, strings.TrimSpace(strings.Repeat(line, 23)), 11000 - 8192},
	} {
		text := bytes.Repeat([]byte(line), 1000)[:test.size]
		for _, piece := range []int{1, 7, 255, 256, 257, 8191, 8192, 8193, test.size} {
			o := new(Output)
			for piece := range slices.Chunk(text, piece) {
				_, _ = o.Write(piece)
			}
			first, end, dropped := o.Result()
			if first != string(text[:8192]) || dropped != test.dropped || end != test.end {
				t.Errorf("%d bytes in pieces of %d: found %d bytes kept, %d dropped and end %q, expected 8192, %d and %q",
					test.size, piece, len(first), dropped, end, test.dropped, test.end)
			}
		}
	}
}
