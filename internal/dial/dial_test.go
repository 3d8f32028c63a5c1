package dial

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// listenLonger makes probes listen so long that a service is never late, however slow the machine
// is. It is for services that send something or close, since only these end the wait.
func listenLonger(t *testing.T) {
	t.Helper()
	before := ListenFor
	ListenFor = 20 * time.Second
	t.Cleanup(func() { ListenFor = before })
}

// The server sees a client that closes its side and has nothing to ask. There is no reset, and the
// server can still send before it closes.
func TestProbeIsPolite(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, check := range []time.Duration{0, ListenFor} {
			ln := listenOn(t, network)
			done := probeOf(t, ln, check)
			conn := testkit.Accept(t, ln)
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("%s, listening for %s: the server read %d bytes, error %v, expected EOF", network, check, n, err)
			}
			conn.Close()
			if err := <-done; err != nil {
				t.Errorf("%s, listening for %s: found %v, expected a service", network, check, err)
			}
		}
	}
}

// A server that sends a greeting is a service. The greeting does not turn the end of the probe into
// a reset.
func TestProbeIsGreeted(t *testing.T) {
	listenLonger(t)
	ln := listenOn(t, "tcp")
	done := probeOf(t, ln, ListenFor)
	conn := testkit.Accept(t, ln)
	if _, err := io.WriteString(conn, "220 hello\r\n"); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the server read %d bytes, error %v, expected EOF", n, err)
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Errorf("found %v, expected a service", err)
	}
}

// Probe does not wait for a server that does not close.
func TestProbeDoesNotWait(t *testing.T) {
	ln := listenOn(t, "tcp")
	done := probeOf(t, ln, ListenFor)
	testkit.Accept(t, ln)
	if err := <-done; err != nil {
		t.Errorf("found %v, expected a service", err)
	}
}

// A forwarder that accepts and closes or resets at once has no service behind it: it is not Open,
// and it is Closed. One that answers before it closes is a service. A probe that does not listen
// cannot tell them apart, unless the reset is faster than connect.
func TestProbeOfForwarder(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	listenLonger(t)
	for name, c := range map[string]struct {
		end  func(net.Conn)
		open bool
	}{
		"closes":  {func(conn net.Conn) { conn.Close() }, false},
		"resets":  {func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0); conn.Close() }, false},
		"answers": {func(conn net.Conn) { _, _ = io.WriteString(conn, "x"); conn.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for a second
			ln := listenOn(t, "tcp")
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					c.end(conn)
				}
			}()
			if err := Probe(t.Context(), "tcp", ln.Addr().String(), 0); err != nil && name != "resets" {
				t.Errorf("found %v, expected nothing against it without listening", err)
			}
			err := <-probeOf(t, ln, ListenFor)
			if c.open && err != nil || !c.open && !errors.Is(err, errNoService) {
				t.Errorf("found %v, expected a service: %v", err, c.open)
			}
			for _, what := range []string{Open, Closed} {
				err := waitFor(t, ln, what)
				if want := c.open == (what == Open); want != (err == nil) {
					t.Errorf("wait %s: found %v, expected success: %v", what, err, want)
				}
				if err != nil && !c.open && what == Open && !strings.HasSuffix(err.Error(), errNoService.Error()) {
					t.Errorf("found %v, expected that there is no service behind it", err)
				}
			}
		})
	}
}

func waitFor(t *testing.T, ln net.Listener, what string) error {
	_, err := Await(t.Context(), ln.Addr().String(), what, time.Second)
	return err
}

func listenOn(t *testing.T, network string) net.Listener {
	t.Helper()
	if network == "unix" {
		return testkit.Listen(t, network, filepath.Join(t.TempDir(), "s"))
	}
	return testkit.Listen(t, network, "127.0.0.1:0")
}

func probeOf(t *testing.T, ln net.Listener, listen time.Duration) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- Probe(t.Context(), ln.Addr().Network(), ln.Addr().String(), listen) }()
	return done
}
