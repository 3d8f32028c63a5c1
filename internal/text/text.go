// Package text makes text from outside safe to show on a terminal, in a log or in an event. It also
// writes durations for people.
package text

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Printable replaces each character that is not visible with a question mark, except tabs: control
// characters, escape sequences, marks that change the direction of writing. The commands print all
// text through it, so that no text from outside can move the cursor or set colours.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError || r == '\t' {
			return r
		}
		return '?'
	}, s)
}

// Brief writes a duration for people, in two units at most. A negative one is "0s".
func Brief(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// longestError is how many bytes of an error FirstLine keeps. An error may quote a service at any
// length, such as the names in its certificate.
const longestError = 500

// FirstLine returns the part of an error that events and the status show: its first line, printable,
// cut at 500 bytes. The log has the whole error.
func FirstLine(err string) string {
	line, _, _ := strings.Cut(err, "\n")
	return Cut(Printable(line), longestError)
}

// Cut shortens s to at most so many bytes, of which there must be 3 at least. It cuts between two
// characters and adds an ellipsis.
func Cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most -= len("…"); !utf8.RuneStart(s[most]); most-- {
	}
	return s[:most] + "…"
}

// Tame replaces the characters that the encoders of the log do not escape, although they move the
// cursor of a terminal or change the direction of writing. (The encoders escape all control
// characters of ASCII.)
func Tame(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '\x7f' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return utf8.RuneError
		}
		return r
	}, s)
}
