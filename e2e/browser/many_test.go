package browser

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"
)

const manyLocks = 1000

// manyConfig writes a Caddyfile with a lock for each of so many client addresses.
func manyConfig(t *testing.T) string {
	t.Helper()
	var config strings.Builder
	config.WriteString("{\nskip_install_trust\nlayer4 {\n{$LOCK} {\n")
	for i := range manyLocks {
		fmt.Fprintf(&config, "@%d remote_ip %s\nroute @%d {\ntcplock 1 {\nname lock-%04d\n}\nproxy {$SERVICE}\n}\n", i, source(i), i, i)
	}
	config.WriteString("}\n{$SERVICE} {\nroute {\necho\n}\n}\n}\n}\nhttp://{$STATUS} {\ntcplock_status\n}\n")
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// source is the address from which the clients of a lock come.
func source(lock int) string { return fmt.Sprintf("127.0.%d.%d", 1+lock/250, 1+lock%250) }

func dialFrom(t *testing.T, source, address string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// busy returns the share of a duration in which the page's thread works.
func (p *page) busy(t *testing.T, over time.Duration) float64 {
	t.Helper()
	worked := func() float64 {
		for _, metric := range command(t, p, performance.GetMetrics, struct{}{}).Metrics {
			if metric.Name == "TaskDuration" {
				return metric.Value
			}
		}
		t.Fatal("found no TaskDuration")
		return 0
	}
	before, start := worked(), time.Now()
	time.Sleep(over)
	return (worked() - before) / time.Since(start).Seconds()
}

// choose asks the page for the locks with this in their names, and of this kind.
func (p *page) choose(t *testing.T, name, kind string) {
	t.Helper()
	eval[bool](t, p, fmt.Sprintf(`(() => {
		document.querySelector('#filter').value = %q;
		document.querySelector('#which').value = %q;
		return document.querySelector('#which').dispatchEvent(new Event('input', { bubbles: true }));
	})()`, name, kind))
}

// The page shows a thousand locks as rows. A reader can search and open them. The rows cost
// little, also when many of the locks change.
func TestManyLocks(t *testing.T) {
	c := newCaddy(t, manyConfig(t), "LOCK", "SERVICE")
	start := time.Now()
	p := open(t, c.url())
	p.until(t, "all locks", fmt.Sprintf("document.querySelectorAll('.lock').length === %d", manyLocks))
	t.Logf("all are there after %s, with the start of the browser", time.Since(start).Round(time.Millisecond))
	command(t, p, performance.Enable, performance.EnableParams{})
	t.Logf("busy with nothing going on: %.0f %%", 100*p.busy(t, 3*time.Second))

	client := dialFrom(t, source(700), c.env["LOCK"])
	p.until(t, "one is held", says("#sum", "1 held"))
	p.choose(t, "LOCK-07", "all")
	p.until(t, "those that were asked for", `[...document.querySelectorAll('.lock')].filter(lock => lock.checkVisibility()).length === 100 && `+says("#shown", "100 of 1,000"))
	p.do(t, chromedp.Click(chromedp.CSS(`[data-lock="lock-0700"] summary`)))
	p.until(t, "the lock's picture", holds(client.LocalAddr().String()))
	p.choose(t, "", "busy")
	p.until(t, "the only one that is held", `[...document.querySelectorAll('.lock')].filter(lock => lock.checkVisibility()).map(lock => lock.dataset.lock).join() === 'lock-0700'`)
	p.choose(t, "", "all")

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source(i * 7 % manyLocks))}}
			if conn, err := dialer.Dial("tcp", c.env["LOCK"]); err == nil {
				conn.Close()
			}
		}
	}()
	busy := p.busy(t, 4*time.Second)
	close(stop)
	<-stopped
	t.Logf("busy with clients at many locks: %.0f %%", 100*busy)
	if busy > 0.7 {
		t.Errorf("the page works %.0f %% of the time, expected it to be idle mostly", 100*busy)
	}
}

// The page shows the beginning of a line of thousands, and a count. That costs no more than a short line.
func TestLongLine(t *testing.T) {
	const waiting = 3000
	c := newCaddy(t, quickstart, "LOCK", "SERVICE")
	p := open(t, c.url())
	for range 1 + waiting {
		c.dial(t, "LOCK")
	}
	p.until(t, "all wait", says(".waiting b", "3,000"))
	p.until(t, "the line, cut", `document.querySelectorAll('.tile, .dot').length === 120 && `+says(".picture text", "and 2,880 more behind them"))
	command(t, p, performance.Enable, performance.EnableParams{})
	t.Logf("busy with %d in line: %.0f %%", waiting, 100*p.busy(t, 3*time.Second))
}
