package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

type within struct{ ctx context.Context }

func (w within) Context() (context.Context, context.CancelFunc) { return context.WithCancel(w.ctx) }

// An error says of which kind it is: whether it is the service that is not there, or this system that
// lacks something.
func TestErrorsHaveKinds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := ln.Addr().String()
	ln.Close()
	past, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	for _, test := range []struct {
		name, network, address, want string
		ctx                          context.Context
	}{
		{"refused", "tcp", down, Refused, t.Context()},
		{"no socket", "unix", filepath.Join(t.TempDir(), "none"), Refused, t.Context()},
		{"no name", "tcp", "no-such-name.invalid:80", Lookup, t.Context()},
		{"late", "unix", ln.Addr().String(), TimedOut, past},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := Connect(within{test.ctx}, test.network, test.address)
			var found *Error
			if conn != nil || !errors.As(err, &found) || found.Kind != test.want {
				t.Errorf("found %v, %v, expected an error of kind %s", conn, err, test.want)
			}
		})
	}
	for err, want := range map[error]string{
		syscall.EMFILE: Local, syscall.ENFILE: Local, syscall.EADDRNOTAVAIL: Local, syscall.ENOBUFS: Local,
		syscall.EHOSTUNREACH: Unreachable, syscall.ETIMEDOUT: TimedOut, syscall.ECONNRESET: Reset, syscall.EACCES: Other,
	} {
		if found := classify(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}); found.Kind != want {
			t.Errorf("%v: found %s, expected %s", err, found.Kind, want)
		}
	}
}

// If one address of a name is not the service's and another cannot be tried at all, the first counts.
func TestLocalErrorCountsLeast(t *testing.T) {
	if got := worse(classify(syscall.EADDRNOTAVAIL), classify(syscall.ECONNREFUSED)); got.Kind != Refused {
		t.Errorf("found %s, expected %s", got.Kind, Refused)
	}
	if got := worse(classify(syscall.ECONNREFUSED), classify(syscall.EADDRNOTAVAIL)); got.Kind != Refused {
		t.Errorf("found %s, expected %s", got.Kind, Refused)
	}
}

// A connection whose two ends are one socket is not the service.
func TestConnectionToItself(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	self := ln.Addr().(*net.TCPAddr)
	defer ln.Close()
	for _, test := range []struct {
		name string
		self bool
	}{{"service", false}, {"itself", true}} {
		d := net.Dialer{Timeout: 10 * time.Second}
		if test.self {
			ln.Close()
			d.LocalAddr = self
		}
		conn, err := d.Dial("tcp", self.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := isSelf(conn); got != test.self {
			t.Errorf("%s: found %t, expected %t", test.name, got, test.self)
		}
		conn.Close()
	}
	if kind := classify(errSelf{}).Kind; kind != Refused {
		t.Errorf("found %s, expected %s", kind, Refused)
	}
}
