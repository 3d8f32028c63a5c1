package browser

import (
	"testing"
)

// troubled are the addresses in testdata/Caddyfile.
var troubled = []string{"HOOKS", "FULL", "WORKERS", "NOBODY", "PROCESSES", "SERVICE"}

// trouble makes things go wrong at these addresses: a hook fails, a client is refused, another one
// exceeds hold_timeout, a worker is unreachable. Clients stay at each lock.
func trouble(t *testing.T, c *caddy) {
	t.Helper()
	c.dial(t, "HOOKS")
	for range 4 {
		c.dial(t, "FULL")
	}
	for range 3 {
		c.dial(t, "WORKERS")
	}
	served := c.dial(t, "PROCESSES")
	if _, err := served.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := served.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	served.Close()
	c.dial(t, "PROCESSES")
}

// The page shows what has gone wrong. Text that looks like HTML stays text.
func TestTrouble(t *testing.T) {
	c := newCaddy(t, "testdata/Caddyfile", troubled...)
	p := open(t, c.url()) // before there is trouble: the line is full for a while only
	trouble(t, c)
	in := func(lock, selector, text string) {
		t.Helper()
		p.until(t, lock+": "+text, says(`[data-lock^="`+lock+`"] `+selector, text))
	}
	in("hooks", ".events .bad", "hook failed")
	in("hooks", ".events .bad", "<img src=x onerror=alert(1)>")
	in("hooks", ".marks .bad", "failing for")
	in("hooks", ".marks .bad", "1 connection refused")
	in("hooks", ".failing", "exec sh: exit status 1: <img src=x onerror=alert(1)>")
	in("full", ".events .warn", "refused")
	in("full", ".marks .bad", "line full")
	in("full", ".events .bad", "hold_timeout")
	in("workers", ".marks .bad", "1 of 2 workers down")
	in("workers", ".events .bad", "worker down")
	in("processes", ".marks .warn", "1 of 2 workers not ready")
	in("processes", ".events .bad", "service failed")
	in("processes", ".events .warn", "service restarted · every")
	if eval[bool](t, p, `document.querySelector('img') !== null`) {
		t.Error("found an element of HTML that was in a text, expected text only")
	}
}
