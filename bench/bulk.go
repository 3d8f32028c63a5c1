package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// The first byte that a client sends: the direction of the data.
const (
	down = 'd' // from the service
	up   = 'u' // to the service
)

const gib = 1 << 30

// bulk measures one connection that transfers as much as it can, in each direction. The reference is
// the same route without a lock.
func bulk(ctx context.Context, b *bench) ([]*result, error) {
	s, err := newService(pump)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	targets, err := b.put(ctx, front{service: s.addr(), slots: 1, locks: 1},
		b.withBefore(direct, haproxyDefault, haproxyOneThread, bareCaddy, lockLinger0, lockDefault, proxyLinger0, proxyDefault)...)
	if err != nil {
		return nil, err
	}
	var (
		results []*result
		trials  []trial
	)
	for _, way := range []struct {
		name, title string
		first       byte
		run         func(context.Context, *net.TCPConn, time.Duration) (int, error)
	}{
		{"bulk-down", "Bulk, from the service to the client", down, download},
		{"bulk-up", "Bulk, from the client to the service", up, upload},
	} {
		r := &result{
			Name:       way.name,
			Title:      way.title,
			References: []string{bareCaddy.name},
			Quantities: []quantity{{"GiB/s", true}, {"server's CPU ms/GiB", false}},
		}
		results = append(results, r)
		for _, t := range targets {
			trials = append(trials, trial{r, t.name, func(ctx context.Context, d time.Duration) ([]float64, error) {
				return bulkRound(ctx, t, way.first, way.run, d)
			}})
		}
	}
	return results, b.alternate(ctx, trials)
}

func bulkRound(ctx context.Context, t *target, way byte, run func(context.Context, *net.TCPConn, time.Duration) (int, error), d time.Duration) ([]float64, error) {
	c, err := dial(ctx, 0, t.addr())
	if err != nil {
		return nil, err
	}
	defer leave(c)
	_ = c.SetDeadline(time.Now().Add(d + patience))
	// The service answers with a byte once the connection has its slot. Only then the time starts.
	if _, err := c.Write([]byte{way}); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return nil, err
	}
	before, err := t.cpu()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	n, err := run(ctx, c, d)
	took := time.Since(start)
	if err != nil {
		return nil, err
	}
	after, err := t.cpu()
	amount := float64(n) / gib
	return []float64{amount / took.Seconds(), (after - before).Seconds() * 1000 / amount}, err
}

// download reads for the time d.
func download(ctx context.Context, c *net.TCPConn, d time.Duration) (total int, err error) {
	buf := make([]byte, 256<<10)
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		n, err := c.Read(buf)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, ctx.Err()
}

// upload writes for the time d, and waits until the service has read all.
func upload(ctx context.Context, c *net.TCPConn, d time.Duration) (total int, err error) {
	buf := make([]byte, 256<<10)
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		n, err := c.Write(buf)
		total += n
		if err != nil {
			return total, err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return total, err
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n != 1 {
		return total, fmt.Errorf("found a receipt of %d bytes and error %v, expected 1 and none", n, err)
	}
	return total, ctx.Err()
}

// pump is the service. It sends until the client has gone, or reads until the client has closed its
// side, and then sends a receipt of one byte.
func pump(c *net.TCPConn) {
	defer c.Close()
	buf := make([]byte, 256<<10)
	n, err := c.Read(buf[:1])
	if err == nil && n == 1 {
		_, err = c.Write(buf[:1])
	}
	if buf[0] == up {
		for err == nil {
			_, err = c.Read(buf)
		}
		if err == io.EOF {
			_, _ = c.Write(buf[:1])
		}
		return
	}
	for err == nil {
		_, err = c.Write(buf)
	}
}
