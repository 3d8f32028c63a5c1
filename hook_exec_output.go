package tcplock

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	outputKept = 8 << 10 // bytes of a command's output for the log
	outputEnd  = 256     // bytes of its end, if it is longer
	outputLine = 200     // bytes of its first line, for the error of a command that failed
)

// output is what a command prints: the first bytes, the last of the others, and how many
// in all.
type output struct {
	mu          sync.Mutex
	first, last []byte
	total       int64
	done        chan struct{} // closed when nobody holds the other end any more
}

// collect reads r until nobody holds the other end any more, and closes it.
func collect(r io.ReadCloser) *output {
	o := &output{done: make(chan struct{})}
	giveBack := budget.take(outputDescriptors)
	go func() {
		defer close(o.done)
		defer giveBack()
		defer r.Close()
		_, _ = io.Copy(o, r)
	}()
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total += int64(len(p))
	fits := min(len(p), outputKept-len(o.first))
	o.first = append(o.first, p[:fits]...)
	rest := p[fits:]
	o.last = append(o.last, rest[max(0, len(rest)-outputEnd):]...)
	o.last = append(o.last[:0], o.last[max(0, len(o.last)-outputEnd):]...)
	return len(p), nil
}

// wait returns false if the output was still open after d.
func (o *output) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-o.done:
		return true
	case <-timer.C:
		return false
	}
}

// result returns the first bytes, how many came after them, and the last lines of those.
func (o *output) result() (first, end string, dropped int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := bytes.TrimSpace(o.last)
	dropped = o.total - int64(len(o.first))
	if _, whole, ok := bytes.Cut(last, []byte("\n")); ok && dropped > outputEnd {
		last = whole
	}
	return tame(string(o.first)), tame(string(last)), dropped
}

// explain adds the first line of the output to the error of a command that failed: often only
// that line says why.
func (o *output) explain(err error) error {
	line := o.firstLine()
	if err == nil || line == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, line)
}

// firstLine is the first line of the output that is not empty, for people: no character in it
// moves a cursor. It is cut at outputLine.
func (o *output) firstLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(o.first), []byte("\n"))
	return cut(printable(string(bytes.TrimSpace(line))), outputLine)
}

// cut shortens s to so many bytes, between two characters, and marks that.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most -= len("…"); !utf8.RuneStart(s[most]); most-- {
	}
	return s[:most] + "…"
}

// tame replaces what the log's encoders let through although it moves the cursor of a
// terminal, or turns the direction of writing. (All below a space they escape.)
func tame(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '\x7f' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return utf8.RuneError
		}
		return r
	}, s)
}
