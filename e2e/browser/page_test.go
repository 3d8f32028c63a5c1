package browser

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

const quickstart = "../../examples/quickstart/Caddyfile"

// holds and waits are how the page's picture shows a client.
func holds(client string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.picture .connected')].some(slot => slot.getAttribute('aria-label').includes(%q))`, client)
}

func waits(position int, client string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.picture .tile title')].some(title => title.textContent.startsWith(%q))`, fmt.Sprintf("%d. %s,", position, client))
}

// says is true when some text of what the selector finds includes this.
func says(selector, text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(%q)].some(found => found.textContent.includes(%q))`, selector, text)
}

func name(conn net.Conn) string { return conn.LocalAddr().String() }

// As in the quickstart, one client holds the slot and one waits, until the first leaves. The page
// shows each change within a second, also what an operator does. A reload does not disturb it.
func TestQuickstart(t *testing.T) {
	c := newCaddy(t, quickstart, "LOCK", "SERVICE")
	p := open(t, c.url())
	p.until(t, "the lock is empty", says(".held b", "0 of 1")+" && "+says(".picture", "no waiters"))

	first := c.dial(t, "LOCK")
	p.soon(t, "the first client holds", holds(name(first)))
	second := c.dial(t, "LOCK")
	p.soon(t, "the second client waits", waits(1, name(second)))
	third := c.dial(t, "LOCK")
	p.soon(t, "the third client waits", waits(2, name(third)))
	if _, err := first.Write([]byte("12345678\n")); err != nil {
		t.Fatal(err)
	}
	p.until(t, "bytes of the first", says(".picture text", "9 B in, 9 B out"))
	p.until(t, "the time goes on", says(".tile", "2 s"))
	p.until(t, "the title tells", `document.title === '2 waiting · tcplock'`)

	c.admin(t, "POST", "/tcplock/locks/default/pause?for=1h", nil)
	p.soon(t, "the lock is paused", says(".marks", "paused, resumes in 59 min"))
	p.until(t, "the pause among the events", says(".events", "paused"))
	first.Close()
	p.soon(t, "the slot is free and no connection is admitted", says(".picture text", "slot 1 · free")+" && "+waits(1, name(second)))
	c.admin(t, "POST", "/tcplock/locks/default/resume", nil)
	p.soon(t, "the second client holds", holds(name(second))+" && "+waits(1, name(third)))
	if eval[bool](t, p, says(".marks", "paused")) {
		t.Error("the page still says that the lock is paused")
	}
	p.until(t, "one was served", says(".outcomes", "served1"))
	p.until(t, "the plot of those in line", `document.querySelector('.plot path').getAttribute('d').length > 10 && document.querySelector('.plot svg').getAttribute('aria-label') !== ''`)
	before := eval[int](t, p, `Number(document.querySelector('.plot').textContent.match(/max (\d+)/)[1])`)

	c.admin(t, "POST", "/load", strings.NewReader(strings.Replace(c.admin(t, "GET", "/config/", nil), `"tcplock"`, `"tcplock","max_waiting":1`, 1)))
	fourth := c.dial(t, "LOCK")
	p.soon(t, "after a reload, the fourth client was refused", says(".events", "refused_full")+" && "+says(".outcomes", "refused_full1"))
	p.until(t, "the line is full", says(".marks", "line full"))
	fourth.Close()
	if after := eval[int](t, p, `Number(document.querySelector('.plot').textContent.match(/max (\d+)/)[1])`); after < before {
		t.Errorf("found at most %d in line in the plot after a reload, expected %d as before", after, before)
	}
	second.Close()
	p.soon(t, "the third client holds", holds(name(third)))
}

// The page is at a path and behind a password. With the password, the stream works as well.
func TestPassword(t *testing.T) {
	c := newCaddy(t, "testdata/password.Caddyfile", "LOCK")
	p := open(t, strings.Replace(c.url(), "//", "//ops:secret@", 1)+"locks")
	client := c.dial(t, "LOCK")
	p.until(t, "a client holds", holds(name(client)))
}

// The page says that Caddy is gone, and goes on when Caddy is back.
func TestLost(t *testing.T) {
	c := newCaddy(t, quickstart, "LOCK", "SERVICE")
	p := open(t, c.url())
	c.stop(t)
	took := p.until(t, "the connection is lost", says("#live", "no connection to Caddy")+" && document.body.hasAttribute('data-lost') && document.title === 'no connection · tcplock'")
	t.Logf("shown %s after Caddy's end", took.Round(time.Millisecond))
	c.start(t, quickstart)
	took = p.until(t, "it is back", `document.querySelector('#live').textContent === 'live' && !document.body.hasAttribute('data-lost')`)
	t.Logf("live %s after Caddy's start", took.Round(time.Millisecond))
	client := c.dial(t, "LOCK")
	p.until(t, "a client holds", holds(name(client)))
	p.forgive("net::ERR_CONNECTION_REFUSED")
}
