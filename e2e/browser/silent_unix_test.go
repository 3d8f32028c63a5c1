//go:build unix

package browser

import (
	"syscall"
	"testing"
	"time"
)

// Caddy runs but sends nothing, as if the network were gone. The page notices that as well.
func TestSilent(t *testing.T) {
	c := newCaddy(t, quickstart, "LOCK", "SERVICE")
	p := open(t, c.url())
	process := c.program.Cmd.Process
	t.Cleanup(func() { _ = process.Signal(syscall.SIGCONT) }) // or it would not end
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	took := p.until(t, "the connection is lost", says("#live", "no connection to Caddy"))
	t.Logf("shown %s after Caddy's last word", took.Round(time.Millisecond))
	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.until(t, "it is back", `document.querySelector('#live').textContent === 'live'`)
}
