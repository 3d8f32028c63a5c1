package proc

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
)

const (
	outputKept = 8 << 10 // bytes of a command's output for the log
	outputEnd  = 256     // bytes of its end, if the output is longer
	outputLine = 200     // bytes of its first line, for the error of a command that failed
)

// Output collects what a command prints. It keeps the first and the last bytes and their number.
type Output struct {
	mu          sync.Mutex
	first, last []byte
	total       int64
}

// read collects what comes from r until no process has the other end, and closes it.
func (o *Output) read(r io.ReadCloser) {
	defer fds.Process.Take(fds.PerOutput)()
	defer r.Close()
	_, _ = io.Copy(o, r)
}

// Write never fails.
func (o *Output) Write(p []byte) (int, error) {
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

// Result returns the first bytes, and, if there were more, how many and the last lines of them.
func (o *Output) Result() (first, end string, dropped int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := bytes.TrimSpace(o.last)
	dropped = o.total - int64(len(o.first))
	if _, whole, ok := bytes.Cut(last, []byte("\n")); ok && dropped > outputEnd {
		last = whole
	}
	return text.Tame(string(o.first)), text.Tame(string(last)), dropped
}

// Explain adds the first line of the output that is not empty to the error of a command: often only
// that line says why it failed. The line is cut at outputLine, and safe to show on a terminal.
func (o *Output) Explain(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(o.first), []byte("\n"))
	if err == nil || len(line) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, text.Cut(text.Printable(string(bytes.TrimSpace(line))), outputLine))
}
