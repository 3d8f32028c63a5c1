package wait

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// A step in a Caddyfile gives the same JSON as one written by hand. An address that no client can
// connect to, or that a client could choose, is refused in both.
func TestWaitConfig(t *testing.T) {
	testkit.WantSteps(t, map[string]string{
		"wait localhost:8100":                            `{"address":"localhost:8100"}`,
		"wait unix//run/s.sock closed {\n timeout 1m\n}": `{"address":"unix//run/s.sock","for":"closed","timeout":60000000000}`,
		"wait {l4.tcplock.worker} open":                  `{"address":"{l4.tcplock.worker}","for":"open"}`,
		"wait":                                           "wait: found 0 arguments, expected an address, and open or closed, at Testfile:1",
		"wait a:1 open now":                              "wait: found 3 arguments, expected an address, and open or closed, at Testfile:1",
		"wait a:1 shut":                                  `for: found "shut", expected open or closed, at Testfile:1`,
		"wait a":                                         `address: found "a", expected host:port or unix//path, at Testfile:1`,
		"wait a:1-2":                                     `address: found "a:1-2", expected host:port or unix//path, at Testfile:1`,
		"wait udp/a:1":                                   `address: found "udp/a:1", expected host:port or unix//path, at Testfile:1`,
		"wait unixgram//run/s":                           `address: found "unixgram//run/s", expected host:port or unix//path, at Testfile:1`,
		"wait unix//run/s|0222":                          `address: found "unix//run/s|0222", expected host:port or unix//path, at Testfile:1`,
		"wait a:b":                                       `address: found "a:b", expected host:port or unix//path: invalid start port: strconv.ParseUint: parsing "b": invalid syntax, at Testfile:1`,
		"wait {l4.conn.remote_addr}":                     `address: found "{l4.conn.remote_addr}": unrecognized placeholder {l4.conn.remote_addr}, expected {l4.tcplock.client|connection|moment|name|reason|slot|waited|worker|worker_host|worker_port} or a global one such as {env.*} (a plain brace is \{), at Testfile:1`,
		"wait a:1 {\n timeout -1s\n}":                    "timeout: found -1s, expected a duration of 0 (the default) or more, at Testfile:2",
	})
	testkit.WantJSONRefused(t, "layer4.tcplock.hooks.wait", map[string]string{
		`{"address":"localhost"}`:                `address: found "localhost"`,
		`{"address":"localhost:1","for":"shut"}`: `for: found "shut"`,
	})
}

// A service that listens is open at once. One that does not listen is closed at once.
func TestWaitAtOnce(t *testing.T) {
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	sock := filepath.Join(t.TempDir(), "sock")
	testkit.Listen(t, "unix", sock)
	for _, s := range []*Step{
		{Address: ln.Addr().String()},
		{Address: "tcp4/" + ln.Addr().String(), For: "open"},
		{Address: "{l4.tcplock.worker}"},
		{Address: "unix/" + sock},
		{Address: testkit.NoService, For: "closed"},
		{Address: "unix/" + sock + ".gone", For: "closed"},
	} {
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", s.Address, err)
		}
		if err := s.Run(t.Context(), hook.Moment{Worker: ln.Addr().String()}); err != nil {
			t.Errorf("%s: %v", s.Address, err)
		}
	}
}

// Two steps wait for a service that restarts: first until it has closed, then until it is open again.
func TestWaitForRestart(t *testing.T) {
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	address := ln.Addr().String()
	closed := run(t, &Step{Address: address, For: "closed"})
	testkit.Accept(t, ln) // it has seen the service open
	ln.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	open := run(t, &Step{Address: address})
	testkit.Listen(t, "tcp", address)
	if err := <-open; err != nil {
		t.Error(err)
	}
}

// A socket file without a listener is closed too.
func TestWaitStaleSocket(t *testing.T) {
	ln := testkit.Listen(t, "unix", filepath.Join(t.TempDir(), "sock")).(*net.UnixListener)
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if err := <-run(t, &Step{Address: "unix/" + ln.Addr().String(), For: "closed"}); err != nil {
		t.Error(err)
	}
}

// The error of a wait says what it waited for, for how long, and what it found last.
func TestWaitTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	for _, test := range []struct{ address, what, last string }{
		{testkit.NoService, "open", "dial tcp " + testkit.NoService + ": "},
		{ln.Addr().String(), "closed", "it accepts connections"},
	} {
		s := &Step{Address: test.address, For: test.what, Timeout: caddy.Duration(time.Second)}
		err := <-run(t, s)
		if want := "wait " + test.address + ": not " + test.what + " after 1s: " + test.last; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("found %v, expected %s", err, want)
		}
	}
}

// An error that does not say that there is no listener is no sign of a closed service.
func TestWaitNotRefused(t *testing.T) {
	s := &Step{Address: "unix/" + strings.Repeat("/long", 100), For: "closed", Timeout: caddy.Duration(100 * time.Millisecond)}
	if err := <-run(t, s); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("found %v, expected invalid argument", err)
	}
}

// The pauses between the probes grow, so that they do not flood a forwarder whose service is not there
// yet.
func TestWaitPauses(t *testing.T) {
	before := dial.ListenFor
	dial.ListenFor = 20 * time.Second
	t.Cleanup(func() { dial.ListenFor = before })
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	done := run(t, &Step{Address: ln.Addr().String(), Timeout: caddy.Duration(500 * time.Millisecond)})
	probes := make(chan int)
	go func() {
		n := 0
		for {
			conn, err := ln.Accept()
			if err != nil {
				probes <- n
				return
			}
			conn.Close()
			n++
		}
	}()
	<-done
	ln.Close()
	if n := <-probes; n > 5 { // at 0, 20, 60, 140 and 300ms
		t.Errorf("found %d probes in 500ms, expected 5 at most", n)
	}
}

// A hook that has to end does not wait on.
func TestWaitCancelled(t *testing.T) {
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- (&Step{Address: ln.Addr().String(), For: "closed"}).Run(ctx, hook.Moment{}) }()
	testkit.Accept(t, ln)
	shutdown := errors.New("shutting down")
	cancel(shutdown)
	if err := <-done; !errors.Is(err, shutdown) {
		t.Errorf("found %v, expected %v", err, shutdown)
	}
}

// The value of a placeholder is checked when the step runs.
func TestWaitNoWorker(t *testing.T) {
	err := (&Step{Address: "{l4.tcplock.worker}", For: "closed"}).Run(t.Context(), hook.Moment{})
	if want := `wait: address: found "", expected host:port or unix//path`; err == nil || err.Error() != want {
		t.Errorf("found %v, expected %s", err, want)
	}
}

func run(t *testing.T, s *Step) <-chan error {
	t.Helper()
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context(), hook.Moment{}) }()
	return done
}
