package relay_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// limitDescriptors sets the limit of this process, until restore is called.
func limitDescriptors(t *testing.T, n uint64) (restore func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lower := before
	lower.Cur = n
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	return func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }
}

// leaveDescriptors uses up all descriptors but so many, until restore is called.
func leaveDescriptors(t *testing.T, left int) (restore func()) {
	t.Helper()
	reset := limitDescriptors(t, 200)
	var files []*os.File
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		files = append(files, f)
	}
	for _, f := range files[:left] {
		f.Close()
	}
	return func() {
		reset()
		for _, f := range files[left:] {
			f.Close()
		}
	}
}

// There is a descriptor for a client, but not for the second one that it takes to detach it. The connection
// stands in line with the one that it has, and is served.
func TestNoDescriptorToDetach(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.RouteConfig("keep/"+addr, "tcplock {\nto "+svc.Addr+"\nlinger 0\n}"))
	caddytest.LeakCheck(t)
	first := caddytest.Dial(t, addr)
	at := svc.Next(t)
	caddytest.Eventually(t, "the first is detached", func() bool { return inHandle() == 0 })
	restore := leaveDescriptors(t, 2)
	second := caddytest.DialSend(t, addr, "hello")
	caddytest.InLine(t, "default", 1, 1)
	if n := inHandle(); n != 1 {
		t.Errorf("found %d connections that are not detached, expected the second", n)
	}
	restore()
	third := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 2)
	svc.Leave(at)
	caddytest.ExpectEOF(t, first)
	at = svc.Next(t)
	caddytest.Expect(t, at, "hello")
	svc.Leave(at)
	caddytest.ExpectEOF(t, second)
	svc.Leave(svc.Next(t))
	caddytest.ExpectEOF(t, third)
	caddytest.InLine(t, "default", 0, 0)
}

// There is no descriptor for the connection to the service. That is not the service's fault: the client waits on,
// with what it has sent, and is served when there is one.
func TestNoDescriptorToConnect(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	for _, before := range []string{"", "test_pass\n"} {
		svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
		caddyfile, a := caddytest.WithAdmin(t, caddytest.RouteConfig("keep/"+addr, before+"tcplock {\nto "+svc.Addr+"\nlinger 0\n}"))
		caddytest.Load(t, caddyfile)
		first := caddytest.Dial(t, addr)
		at := svc.Next(t)
		second := caddytest.DialSend(t, addr, "hello")
		caddytest.InLine(t, "default", 1, 1)
		restore := limitDescriptors(t, 3)
		svc.Leave(at)
		caddytest.ExpectEOF(t, first)
		caddytest.InLine(t, "default", 0, 1)
		restore()
		at = svc.Next(t)
		caddytest.Expect(t, at, "hello")
		svc.Leave(at)
		caddytest.ExpectEOF(t, second)
		second.Close()
		caddytest.InLine(t, "default", 0, 0)
		got := a.Scrape(t)
		if got["connect_errors_total{kind=local lock=default}"] == 0 || got["connect_errors_total{kind=refused lock=default}"] != 0 {
			t.Errorf("found %v, expected errors of kind local only", got)
		}
		if s := caddytest.Status(t, "default"); s.Connections[status.Served] < 2 || s.Workers[0].State != status.WorkerUp {
			t.Errorf("found %+v, expected both served, and the service up", s)
		}
	}
}
