//go:build unix

package processes_test

import (
	"errors"
	"fmt"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// daemonServer does not answer. It starts a daemon in a session of its own, which answers. So the
// daemon still answers when the process that the lock has started has ended.
const daemonServer = `import os, socket, sys, time # ends by !
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork():
    listener.close()
    time.sleep(3600)
os.setsid()
os.close(1)
os.close(2)
while True:
    client, _ = listener.accept()
    word = client.recv(1)
    if word == b"!":
        os._exit(0)
    if word:
        client.sendall(b"here")
        client.recv(1)
    client.close()`

// The lock restarts its service, and the daemon still answers. The lock sends no client to it: the
// start fails until the address is free. Status, command, event and metrics show that.
func TestRestartLeavesDaemon(t *testing.T) {
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	for reason, options := range map[string]struct{ service, lock string }{
		"request":      {},
		"every":        {service: "restart every 1"},
		"hold_timeout": {lock: "hold_timeout 2s"},
	} {
		t.Run(reason, func(t *testing.T) { testRestartLeavesDaemon(t, reason, options.service, options.lock) })
	}
}

func testRestartLeavesDaemon(t *testing.T, reason, service, lock string) {
	addr, worker, server := caddytest.FreeAddr(t), caddytest.FreeAddr(t), filepath.Join(t.TempDir(), "server.py")
	if err := os.WriteFile(server, []byte(daemonServer), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endDaemon(t, worker) }) // when Caddy has stopped
	options := fmt.Sprintf("service %s %s {l4.tcplock.worker_port} {\n%s\n}\n%s", caddytest.Python, server, service, lock)
	config, a := caddytest.WithAdmin(t, caddytest.PoolConfig(addr, options, worker))
	caddytest.Load(t, config)
	process := func() *status.Process { return a.Lock(t, "default").Workers[0].Process }
	caddytest.Eventually(t, "the service is ready", func() bool { return process().State == "ready" })
	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "?")
	caddytest.Expect(t, client, "here")
	if reason == "hold_timeout" {
		caddytest.ExpectClosed(t, client)
	}
	client.Close()
	if reason == "request" {
		a.Ask(t, "POST", "/tcplock/locks/default/restart")
	}

	why := "something else listens on " + worker
	caddytest.Eventually(t, "the status says why", func() bool {
		w := a.Lock(t, "default").Workers[0]
		return w.State == "unready" && strings.Contains(w.Process.Failed, why)
	})
	if p := process(); p.LastReason != reason {
		t.Errorf("found last reason %q, expected %s", p.LastReason, reason)
	}
	a.Exits(t, 0, "1 of 1 worker down", "status")
	a.Exits(t, 0, "(?s)1 of 1 worker down.*"+regexp.QuoteMeta(why), "status", "default")
	failed := func(e status.Event) bool {
		return e.Event == "failed" && e.Slot == 1 && strings.Contains(e.Error, why)
	}
	caddytest.Eventually(t, "there is an event of it", func() bool { return slices.ContainsFunc(a.Lock(t, "default").Events, failed) })
	series := a.Scrape(t)
	if n := series["service_failures_total{lock=default slot=1}"]; n < 1 {
		t.Errorf("found %v failed starts in the metrics, expected some: %v", n, series)
	}
	a.Measures(t, map[string]float64{"service_ready{lock=default slot=1}": 0, "worker_up{lock=default slot=1}": 0})

	client = caddytest.Dial(t, addr) // in line, whatever answers at the address
	caddytest.Send(t, client, "?")
	caddytest.InLine(t, "default", 0, 1)
	_ = client.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, _ := client.Read(make([]byte, 1)); n > 0 {
		t.Error("the client got an answer, expected it to wait")
	}
	_ = client.SetReadDeadline(time.Now().Add(caddytest.Patience))
	endDaemon(t, worker)
	caddytest.Expect(t, client, "here") // from the next one
	if p := process(); reason != "hold_timeout" && p.Failed != "" {
		t.Errorf("found %q when the next is ready, expected no failure", p.Failed)
	}
}

// endDaemon ends the daemon once: right after that, the lock may start the next one.
func endDaemon(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	_, _ = conn.Write([]byte("!"))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what answers at %s does not end", addr)
	}
}
