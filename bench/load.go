package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects as client i. It does not turn keep-alive on, which would take system calls.
func dial(ctx context.Context, i int, addr netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1, Timeout: patience}
	// One address has about 28,000 ports for outgoing connections.
	const perAddress = 20_000
	if i < perAddress {
		return d.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
	}
	d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
		if e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}); e != nil {
			return e
		}
		return err
	}
	from := netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i/perAddress)})
	return d.DialTCP(ctx, "tcp", netip.AddrPortFrom(from, 0), addr)
}

// converse sends a request, reads the answer to its end and closes.
func converse(c *net.TCPConn, buf []byte) error {
	defer c.Close()
	if _, err := c.Write(request); err != nil {
		return err
	}
	for got := 0; ; {
		n, err := c.Read(buf)
		got += n
		switch {
		case err == io.EOF && got == len(answer):
			return nil
		case err == io.EOF:
			return fmt.Errorf("found an answer of %d bytes, expected %d", got, len(answer))
		case err != nil:
			return err
		}
	}
}

// forgottenAfter is how long a client waits at HAProxy before it gives up, see errForgotten. With so
// few clients, no client waits so long otherwise.
const forgottenAfter = 10 * time.Second

// askAgainAndAgain makes short connections with so many clients for the time d, to each address in
// turn. It returns how many were answered, in what time, and how many HAProxy has forgotten. Clients
// that were forgotten connect again.
func askAgainAndAgain(ctx context.Context, clients int, t *target, d time.Duration) (answered, forgotten int, took time.Duration, err error) {
	limit := patience
	if t.kind == haproxy {
		limit = forgottenAfter
	}
	var (
		count  atomic.Int64
		lost   atomic.Int64
		over   atomic.Bool
		failed = make(chan error, clients)
		all    sync.WaitGroup
	)
	start := time.Now()
	for i := range clients {
		all.Go(func() {
			buf := make([]byte, 1024)
			for n := i; !over.Load(); n += clients {
				c, err := dial(ctx, i, t.addrs[n%len(t.addrs)])
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(limit))
					err = converse(c, buf)
				}
				if t.kind == haproxy && errors.Is(err, os.ErrDeadlineExceeded) {
					lost.Add(1)
					continue
				}
				if err != nil {
					failed <- err
					return
				}
				count.Add(1)
			}
		})
	}
	select {
	case <-time.After(d):
	case err = <-failed: // the others go on until over is set
	case <-ctx.Done():
		err = ctx.Err()
	}
	answered, took = int(count.Load()), time.Since(start)
	over.Store(true)
	all.Wait()
	if err == nil && len(failed) > 0 { // a client failed after the select
		err = <-failed
	}
	return answered, int(lost.Load()), took, err
}
