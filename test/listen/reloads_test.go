package listen_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// losses counts the connections of clients that come and go while Caddy reloads.
type losses struct{ lost, all atomic.Int64 }

func (l *losses) String() string {
	return fmt.Sprintf("lost %d of %d connections", l.lost.Load(), l.all.Load())
}

// reloadUnder reloads Caddy while 24 clients connect, ask, and expect the whole answer. In turn it
// takes two configs, which both listen on addr.
func reloadUnder(t *testing.T, addr string, reloads int, configs [2]string) *losses {
	t.Helper()
	caddytest.Load(t, configs[0])
	var l losses
	var clients sync.WaitGroup
	over := make(chan struct{})
	for range 24 {
		clients.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				l.all.Add(1)
				if err := ask(addr); err != nil {
					l.lost.Add(1)
				}
			}
		})
	}
	adapted := [2][]byte{caddytest.Adapt(t, configs[0]), caddytest.Adapt(t, configs[1])}
	for i := range reloads {
		if err := caddytest.TryLoadJSON(t, adapted[(i+1)%2]); err != nil {
			t.Fatal(err)
		}
		next := l.all.Load() + 25
		caddytest.Eventually(t, "25 more connections", func() bool { return l.all.Load() >= next })
	}
	close(over)
	clients.Wait()
	return &l
}

// ask sends a line, and expects it back and the end.
func ask(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, caddytest.Patience)
	if err != nil {
		return err
	}
	return question(conn)
}

func question(conn net.Conn) error {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	const line = "is anybody there?\n"
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && string(answer) != line {
		err = fmt.Errorf("found %q, expected %q", answer, line)
	}
	return err
}

func echoLine(conn *net.TCPConn) {
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
		_, _ = io.WriteString(conn, line)
	}
}

// Caddy reloads 400 times while 24 clients come and go. On keep/ no connection is lost.
func TestKeepLosesNothing(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, echoLine)
	addr := caddytest.FreeAddr(t)
	config := func(slots int) string {
		return caddytest.LockConfig("keep/"+addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), svc.Addr)
	}
	l := reloadUnder(t, addr, 400, [2]string{config(8), config(9)})
	t.Log(l)
	if l.lost.Load() > 0 || l.all.Load() < 400*25 {
		t.Errorf("%s, expected none of some thousands", l)
	}
}

// Without keep/ a reload closes one socket and opens another, and the system resets the connections
// that nothing has accepted by then. Behind a lock, that happens to at most a tenth as many as with
// caddy-l4 alone.
func TestPlainListenerLosesLittle(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, echoLine)
	lost := func(handler string) float64 {
		addr := caddytest.FreeAddr(t)
		config := func(timeout int) string {
			return caddytest.Global(fmt.Sprintf("layer4 {\n%s {\nmatching_timeout %ds\nroute {\n%s\nproxy %s\n}\n}\n}", addr, timeout, handler, svc.Addr))
		}
		l := reloadUnder(t, addr, 120, [2]string{config(3), config(4)})
		t.Logf("with %q: %s", handler, l)
		return float64(l.lost.Load()) / float64(l.all.Load())
	}
	bare, locked := lost(""), lost("tcplock 8 {\nlinger 0\n}")
	if bare == 0 || locked > bare/10 {
		t.Errorf("found %.3f %% lost, expected at most a tenth of the %.3f %% of caddy-l4 alone", 100*locked, 100*bare)
	}
}
