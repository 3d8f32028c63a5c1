package proc

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// The error takes the first line of the output that is not empty, without what moves a cursor,
// and no more than 200 bytes of it. An output that is empty adds nothing.
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

// However the output is cut into pieces, the same is kept of it. Nothing of it is kept
// twice: the end is that of what did not fit.
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
