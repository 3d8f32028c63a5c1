package tcplock

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// nobody listens at this port (tcpmux): one that a test has closed may be used again
// by another program.
const nobody = "127.0.0.1:1"

// One that listens is open at once, one that does not is closed at once.
func TestWaitAtOnce(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	sock := filepath.Join(t.TempDir(), "sock")
	listen(t, "unix", sock)
	for _, s := range []*WaitStep{
		{Address: ln.Addr().String()},
		{Address: "tcp4/" + ln.Addr().String(), For: "open"},
		{Address: "{l4.tcplock.worker}"},
		{Address: "unix/" + sock},
		{Address: nobody, For: "closed"},
		{Address: "unix/" + sock + ".gone", For: "closed"},
	} {
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", s.Address, err)
		}
		if err := s.Run(t.Context(), Moment{Worker: ln.Addr().String()}); err != nil {
			t.Errorf("%s: %v", s.Address, err)
		}
	}
}

// A restarted service is waited for: first until it has closed, then until it is open
// again.
func TestWaitForRestart(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	address := ln.Addr().String()
	closed := run(t, &WaitStep{Address: address, For: "closed"})
	accept(t, ln) // it has seen the service open
	ln.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	open := run(t, &WaitStep{Address: address})
	listen(t, "tcp", address)
	if err := <-open; err != nil {
		t.Error(err)
	}
}

// A socket file that nobody listens at is closed too.
func TestWaitStaleSocket(t *testing.T) {
	ln := listen(t, "unix", filepath.Join(t.TempDir(), "sock")).(*net.UnixListener)
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if err := <-run(t, &WaitStep{Address: "unix/" + ln.Addr().String(), For: "closed"}); err != nil {
		t.Error(err)
	}
}

// The probe's connection is reset, so that a service that takes one client at a time is
// rid of it at once, even if it does not read.
func TestWaitResetsProbe(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	done := run(t, &WaitStep{Address: ln.Addr().String()})
	conn := accept(t, ln)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("found %v, expected a reset", err)
	}
}

// A wait that is over says what for, how long, and what it met last.
func TestWaitTimeout(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	for _, test := range []struct{ address, what, last string }{
		{nobody, "open", "dial tcp " + nobody + ": "},
		{ln.Addr().String(), "closed", "it accepts connections"},
	} {
		s := &WaitStep{Address: test.address, For: test.what, Timeout: caddy.Duration(time.Second)}
		err := <-run(t, s)
		if want := "wait " + test.address + ": not " + test.what + " after 1s: " + test.last; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("found %v, expected %s", err, want)
		}
	}
}

// The pauses between the tries grow: a service is not flooded with probes while it is
// waited for.
func TestWaitPauses(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	done := run(t, &WaitStep{Address: ln.Addr().String(), For: "closed", Timeout: caddy.Duration(500 * time.Millisecond)})
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
	ln := listen(t, "tcp", "127.0.0.1:0")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- (&WaitStep{Address: ln.Addr().String(), For: "closed"}).Run(ctx, Moment{}) }()
	accept(t, ln)
	shutdown := errors.New("shutting down")
	cancel(shutdown)
	if err := <-done; !errors.Is(err, shutdown) {
		t.Errorf("found %v, expected %v", err, shutdown)
	}
}

// What a placeholder stands for is looked at when the step runs.
func TestWaitNoWorker(t *testing.T) {
	err := (&WaitStep{Address: "{l4.tcplock.worker}", For: "closed"}).Run(t.Context(), Moment{})
	if want := `wait: address: found "", expected host:port or unix//path`; err == nil || err.Error() != want {
		t.Errorf("found %v, expected %s", err, want)
	}
}

func run(t *testing.T, s *WaitStep) <-chan error {
	t.Helper()
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context(), Moment{}) }()
	return done
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
