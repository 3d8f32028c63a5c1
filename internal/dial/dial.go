// Package dial finds out whether a service is at an address, without harm to the service.
package dial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
)

const (
	timeout  = 2 * time.Second
	farewell = 100 * time.Millisecond
)

// ListenFor is how long Await's probes listen, see Probe. Some tests set it higher, so that a slow
// machine does not change their result.
var ListenFor = 50 * time.Millisecond

// The errors of Windows, which uses neither ECONNREFUSED nor ECONNRESET.
const (
	wsaeConnReset   = syscall.Errno(10054)
	wsaeConnRefused = syscall.Errno(10061)
)

var errCutShort = errors.New("it accepts connections, but the probe was cut short")

var errNoService = errors.New("it accepts connections and closes them at once: there is no service behind it")

// Probe returns nil if a service is at the address, and otherwise why not.
//
// It is not enough that the address accepts a connection. A forwarder, such as a container's
// published port, also accepts when there is no service behind it, and then closes at once. So
// Probe listens for a while, unless listen is 0. If the service sends something in that time, or
// keeps the connection open, it is there.
//
// Then Probe leaves like a client that has nothing to ask: it closes its side, gives the service
// some time to close too, and closes. A reset would be faster, but it makes the next call of a
// simple server fail, and many servers do not survive that.
func Probe(ctx context.Context, network, host string, listen time.Duration) error {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, host)
	if Reset(err) {
		return errNoService // the reset was faster than connect
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	cut := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer cut()
	if listen > 0 {
		switch n, err := readFor(ctx, conn, listen); {
		case n > 0:
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", errCutShort, context.Cause(ctx))
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return errNoService
		}
	}
	_ = conn.(interface{ CloseWrite() error }).CloseWrite() // both TCP and unix connections have it
	for end := time.Now().Add(farewell); ; {
		if _, err := readFor(ctx, conn, time.Until(end)); err != nil {
			return nil
		}
	}
}

// readFor reads what comes within d and before ctx is done.
func readFor(ctx context.Context, conn net.Conn, d time.Duration) (n int, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(d))
	if ctx.Err() != nil { // this deadline may have replaced the one set at the end of ctx
		return 0, os.ErrDeadlineExceeded
	}
	return conn.Read(make([]byte, 4<<10))
}

// absent reports whether the error of a probe means that there is no service: nothing listens, or
// there is nothing behind the listener. Other errors tell nothing about that.
func absent(network string, err error) bool {
	return Refused(err) || errors.Is(err, errNoService) || network == "unix" && errors.Is(err, fs.ErrNotExist)
}

// Refused reports whether err says that nothing listens at an address.
func Refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaeConnRefused)
}

// Reset reports whether err says that the other side has broken the connection.
func Reset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, wsaeConnReset)
}

// The states that Await can wait for.
const (
	Open   = "open"   // a service is at the address
	Closed = "closed" // none is
)

// The pauses between two probes double from MinPause to maxPause.
const (
	MinPause = 20 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// Await waits until the address is Open or Closed, for timeout at most. It returns an error if it is
// not by then, or if ctx is done before. met reports whether the address has accepted a probe at any
// time, even with no service behind it.
func Await(ctx context.Context, address, what string, timeout time.Duration) (met bool, err error) {
	network, host, err := Address(address)
	if err != nil {
		return false, fmt.Errorf("wait: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	last := clock.Retry(bounded, MinPause, maxPause, func() error {
		err := Probe(bounded, network, host, ListenFor)
		met = met || err == nil || errors.Is(err, errNoService) || errors.Is(err, errCutShort)
		switch {
		case what == Open:
			return err
		case absent(network, err):
			return nil
		case err == nil:
			return errors.New("it accepts connections")
		}
		return err
	})
	switch {
	case last == nil:
		return met, nil
	case ctx.Err() != nil:
		return met, fmt.Errorf("wait %s: stopped: %w", address, context.Cause(ctx))
	}
	return met, fmt.Errorf("wait %s: not %s after %s: %w", address, what, timeout, last)
}

// Address splits an address (host:port or unix//path) into the two arguments of net.Dial. It returns
// an error if the address is not one that a client can connect to.
func Address(address string) (network, host string, err error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return "", "", fmt.Errorf("address: found %q, expected host:port or unix//path: %w", address, err)
	}
	ok := false
	switch a.Network {
	case "tcp", "tcp4", "tcp6":
		ok = a.PortRangeSize() == 1 && a.StartPort > 0
	case "unix":
		// After a | come permissions, which are for listeners only.
		ok = a.Host != "" && !strings.Contains(a.Host, "|")
	}
	if !ok {
		return "", "", fmt.Errorf("address: found %q, expected host:port or unix//path", address)
	}
	return a.Network, a.JoinHostPort(0), nil
}
