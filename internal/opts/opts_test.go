package opts

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// A table reads its options and refuses everything else. An error has what was found, what was
// expected, and the line. An option that is absent is not set.
func TestOptions(t *testing.T) {
	for _, test := range []struct{ name, input, want string }{
		{"no block", "x", `"" unset false []`},
		{"empty block", "x {\n}", `"" unset false []`},
		{"each", "x {\n\tword a\n\tnumber 0\n\ton\n\tpair a b\n\tpair c\n}", `"a" 0 true [[a b] [c]]`},
		{"quoted brace", "x {\n\tword \"{\"\n\tnumber 3\n}", `"{" 3 false []`},

		{"missing", "x {\n\tnumber 3\n\tword\n}", "word: found 0 arguments, expected 1, at Caddyfile:3"},
		{"surplus", "x {\n\tword a b\n\tnumber 3\n}", "word: found 2 arguments, expected 1, at Caddyfile:2"},
		{"flag with argument", "x {\n\ton off\n}", "on: found 1 argument, expected 0, at Caddyfile:2"},
		{"more than most", "x {\n\tpair a b c\n}", "pair: found 3 arguments, expected 1 to 2, at Caddyfile:2"},
		{"empty", "x {\n\tword \"\"\n}", "word: found an empty argument, expected a value, at Caddyfile:2"},
		{"wrong", "x {\n\tnumber x\n\tword a\n}", `number: found "x", expected a whole number, at Caddyfile:2`},
		{"twice", "x {\n\tword a\n\tnumber 1\n\tword a\n}", "word: found a second time, expected once, at Caddyfile:4"},
		{"unknown", "x {\n\tword a\n\twrod b\n}", `found option "wrod", expected one of number, on, pair, word, at Caddyfile:3`},
		{"block", "x {\n\tword a {\n\t\tb\n\t}\n}", "word: found a block, expected none, at Caddyfile:2"},
		{"empty block of a flag", "x {\n\ton {\n\t}\n}", "on: found a block, expected none, at Caddyfile:2"},
		{"check fails", "x {\n\tword a\n\tnumber 9\n\ton\n}", "found 9, at Caddyfile:3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := readOptions(dispense(t, test.input)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func readOptions(d *caddyfile.Dispenser) string {
	var word string
	var n *int
	var on bool
	var pairs [][]string
	table := Table{
		"word":   One(&word, Text),
		"number": Optional(&n, Number),
		"on":     Flag(&on),
		"pair": {Min: 1, Max: 2, Repeat: true, Set: func(_ *caddyfile.Dispenser, args []string) error {
			pairs = append(pairs, args)
			return nil
		}},
	}
	check := func() error {
		if n != nil && *n == 9 {
			return errors.New("found 9")
		}
		return nil
	}
	d.Next()
	if err := table.Parse(d, check, nil); err != nil {
		return err.Error()
	}
	given := "unset"
	if n != nil {
		given = fmt.Sprint(*n)
	}
	return fmt.Sprintf("%q %s %v %v", word, given, on, pairs)
}

// dispense returns the tokens of input, without the checks that Caddy's parser does before a module
// gets them.
func dispense(t *testing.T, input string) *caddyfile.Dispenser {
	tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	return caddyfile.NewDispenser(tokens)
}

// A number or duration with a wrong part is refused. Users of TCPLock or nginx write durations
// without a unit, so that has its own error.
func TestOptionValues(t *testing.T) {
	for input, want := range map[string]string{
		"0":   "0s",
		"20s": "20s",
		"1d":  "24h0m0s",
		"-5s": "-5s", // the check of its option refuses it
		"20":  `found "20" without a unit, expected a duration such as 20s`,
		"1.5": `found "1.5" without a unit, expected a duration such as 1.5s`,
		"-20": `found "-20", expected a duration such as 500ms, 20s or 1h`,
		"inf": `found "inf", expected a duration such as 500ms, 20s or 1h`,
		"":    `found "", expected a duration such as 500ms, 20s or 1h`,
	} {
		d, err := Duration(input)
		if got := describe(time.Duration(d), err); got != want {
			t.Errorf("duration %q: got %s, want %s", input, got, want)
		}
	}
	for input, want := range map[string]string{
		"0":    "0",
		"-3":   "-3",
		"12":   "12",
		"1.5":  `found "1.5", expected a whole number`,
		"12 ":  `found "12 ", expected a whole number`,
		"0x10": `found "0x10", expected a whole number`,
		"99999999999999999999": `found "99999999999999999999", expected a whole number of at most ` +
			fmt.Sprint(int(^uint(0)>>1)),
	} {
		n, err := Number(input)
		if got := describe(n, err); got != want {
			t.Errorf("number %q: got %s, want %s", input, got, want)
		}
	}
}

func describe(value any, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(value)
}
