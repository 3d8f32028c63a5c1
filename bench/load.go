package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// dialer spares the system calls that keep idle connections alive.
var dialer = net.Dialer{KeepAlive: -1, Timeout: patience}

// ask connects, sends a request, reads the answer to its end and closes.
func ask(ctx context.Context, addr netip.AddrPort, buf []byte) error {
	c, err := dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
	if err != nil {
		return err
	}
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

// shortConnections has clients ask again and again, and returns how many were answered
// a second.
func shortConnections(ctx context.Context, target string, clients int, d time.Duration) (float64, error) {
	addr, err := netip.ParseAddrPort(target)
	if err != nil {
		return 0, err
	}
	var (
		done   atomic.Int64
		over   atomic.Bool
		failed = make(chan error, clients)
		all    sync.WaitGroup
	)
	start := time.Now()
	for range clients {
		all.Go(func() {
			for buf := make([]byte, 1024); !over.Load(); done.Add(1) {
				if err := ask(ctx, addr, buf); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	select {
	case <-time.After(d):
	case err = <-failed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	answered, took := done.Load(), time.Since(start)
	over.Store(true)
	all.Wait()
	return float64(answered) / took.Seconds(), err
}
