package relay_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// silentAddr is an address at which the system drops all that comes, as a firewall does: the queue of
// connections to accept is full.
func silentAddr(t *testing.T) string {
	t.Helper()
	addr, _ := testkit.FullListener(t)
	return addr.String()
}

// A service that does not answer at all holds the slot for connect_timeout and not longer. The client waits
// on, and is served by the address that a reload brings.
func TestConnectTimeout(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	silent := silentAddr(t)
	svc, addr := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
	caddyfile, a := caddytest.WithAdmin(t, config(addr, 1, "connect_timeout 700ms", silent))
	caddytest.Load(t, caddyfile)
	client := caddytest.DialSend(t, addr, "hello")
	start := time.Now()
	caddytest.InLine(t, "default", 1, 0)
	caddytest.InLine(t, "default", 0, 1)
	if took := time.Since(start); took < 500*time.Millisecond || took > 3*time.Second {
		t.Errorf("back in line after %s, expected 700ms", took)
	}
	if got := a.Scrape(t); got["connect_errors_total{kind=timeout lock=default}"] == 0 {
		t.Errorf("found %v, expected an error of kind timeout", got)
	}
	caddytest.Load(t, a.In(config(addr, 1, "", svc.Addr)))
	caddytest.Expect(t, client, "hello")
	client.Close()
	caddytest.InLine(t, "default", 0, 0)
}

// An operator kicks a connection while tcplock connects: the attempt ends at once.
func TestKickWhileConnecting(t *testing.T) {
	silent, addr := silentAddr(t), caddytest.FreeAddr(t)
	caddyfile, a := caddytest.WithAdmin(t, config(addr, 1, "connect_timeout 1h", silent))
	caddytest.Load(t, caddyfile)
	caddytest.LeakCheck(t)
	client := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 0)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=1")
	caddytest.ExpectClosed(t, client)
	caddytest.InLine(t, "default", 0, 0)
	if s := caddytest.Status(t, "default"); s.Connections["kicked"] != 1 || s.Workers[0].State != status.WorkerUp {
		t.Errorf("found %+v, expected one kicked, and the service not down", s)
	}
}

// hold_timeout counts from when the service has been reached: connecting may take longer.
func TestConnectingIsNoTimeWithTheService(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	full, fd := testkit.FullListener(t)
	silent := full.String()
	addr := caddytest.FreeAddr(t)
	const hold = 300 * time.Millisecond
	caddytest.Load(t, config(addr, 1, fmt.Sprintf("connect_timeout 1h\nhold_timeout %s", hold), silent))
	client := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 0)
	time.Sleep(2 * hold) // the time that the attempt takes at least
	go func() {
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return // the test has ended
			}
			_, _ = unix.Write(conn, []byte("hello"))
			defer unix.Close(conn)
		}
	}()
	caddytest.Expect(t, client, "hello")
	caddytest.ExpectEOF(t, client)
	caddytest.InLine(t, "default", 0, 0)
	if n := caddytest.Status(t, "default").Connections[status.HoldTimeout]; n != 1 {
		t.Errorf("found %d that were cut by hold_timeout, expected 1", n)
	}
	_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ends Accept4, which Close would not
}
