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

// load is a crowd of clients that make short connections, to each address of a target in turn.
type load struct {
	clients int
	time    time.Duration // how long, at most
	most    int           // how many connections, at most; 0: as many as there are in that time
	lossy   bool          // count the connections that fail; else the first one that fails is an error
}

// tally is what has become of the connections of a load.
type tally struct {
	answered  int
	forgotten int // by HAProxy, see errForgotten; the client has connected again
	lost      int
	took      time.Duration
}

func (l load) run(ctx context.Context, t *target) (tally, error) {
	limit := patience
	if t.kind == haproxy {
		limit = forgottenAfter
	}
	var (
		begun, answered, forgotten, lost atomic.Int64

		over   atomic.Bool
		failed = make(chan error, l.clients)
		all    sync.WaitGroup
		err    error
	)
	start := time.Now()
	for i := range l.clients {
		all.Go(func() {
			buf := make([]byte, 1024)
			for n := i; !over.Load() && (l.most == 0 || begun.Add(1) <= int64(l.most)); n += l.clients {
				err := askOnce(ctx, i, t.addrs[n%len(t.addrs)], limit, buf)
				switch {
				case err == nil:
					answered.Add(1)
				case t.kind == haproxy && errors.Is(err, os.ErrDeadlineExceeded):
					forgotten.Add(1)
				case l.lossy:
					lost.Add(1)
				default:
					failed <- err
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case <-time.After(l.time):
	case <-done:
	case err = <-failed: // the others go on until over is set
	case <-ctx.Done():
		err = ctx.Err()
	}
	found := tally{answered: int(answered.Load()), took: time.Since(start)}
	over.Store(true)
	<-done
	if err == nil && len(failed) > 0 { // a client failed after the select
		err = <-failed
	}
	found.forgotten, found.lost = int(forgotten.Load()), int(lost.Load())
	return found, err
}

func askOnce(ctx context.Context, i int, addr netip.AddrPort, limit time.Duration, buf []byte) error {
	c, err := dial(ctx, i, addr)
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(limit))
	return converse(c, buf)
}

func (r *result) remarkForgotten(t *target, clients int) {
	if clients > 0 {
		r.remark(fmt.Sprintf("%s let %d clients wait for %s in a round; they tried again", t.name, clients, forgottenAfter))
	}
}
