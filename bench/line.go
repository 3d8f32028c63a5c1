package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// doorway is a target with a service of its own, which serves one connection after the
// other and only while its gate is open.
type doorway struct {
	*target
	*gated
	bench  *bench
	server server
}

// doorway starts a server that has served some connections already. The gate is shut.
func (b *bench) doorway(ctx context.Context, s server) (*doorway, error) {
	g, err := newGated()
	if err != nil {
		return nil, err
	}
	g.shut()
	d := &doorway{gated: g, bench: b, server: s}
	if err := d.startServer(ctx); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// startServer starts the server, anew if it runs.
func (d *doorway) startServer(ctx context.Context) (err error) {
	if d.target != nil {
		d.target.stop()
	}
	d.open()
	defer d.shut()
	if d.target, err = d.bench.start(ctx, front{service: d.gated.addr(), slots: 1, locks: 1}, d.server); err != nil {
		return err
	}
	if _, _, _, err := askAgainAndAgain(ctx, clients, d.target, d.bench.duration/4); err != nil {
		return err
	}
	return d.calm(ctx)
}

// calm waits until the server has neither taken nor closed a connection for a while.
func (d *doorway) calm(ctx context.Context) error { return d.target.calm(ctx, d.bench.settle/15) }

// stop is called with the gate shut.
func (d *doorway) stop() {
	if d.target != nil {
		d.target.stop()
	}
	d.gate.Unlock()
	d.gated.stop()
}

// line is the clients that stand in line at a doorway, and the one that has the slot.
type line struct {
	at        *doorway
	conns     []atomic.Pointer[net.TCPConn]
	over      atomic.Bool
	failed    chan error
	connected atomic.Int64 // how often
	answered  atomic.Int64
	all       sync.WaitGroup
}

// line has n clients wait, and one more at the service. Whoever has been answered asks
// once more, if again is set.
func (d *doorway) line(ctx context.Context, n int, again bool) (*line, error) {
	l := &line{at: d, conns: make([]atomic.Pointer[net.TCPConn], n+1), failed: make(chan error, n+1)}
	// More at a time than a listener's backlog would have to come again a second later.
	dialing := make(chan struct{}, 64)
	for i := range l.conns {
		l.all.Go(func() {
			for l.ask(ctx, i, dialing) && again {
			}
		})
	}
	err := until(ctx, fmt.Sprintf("%d clients are connected", n+1), func() (bool, error) {
		select {
		case err := <-l.failed:
			return false, err
		default:
			return l.connected.Load() == int64(n+1), nil
		}
	})
	if err == nil {
		err = d.calm(ctx) // those that wait to be accepted have been
	}
	if err != nil {
		l.cut()
	}
	return l, err
}

// ask is client number i. It returns false when the line is over, or a client is lost.
func (l *line) ask(ctx context.Context, i int, dialing chan struct{}) bool {
	dialing <- struct{}{}
	c, err := dial(ctx, i, l.at.addr())
	<-dialing
	if err == nil {
		l.conns[i].Store(c)
		l.connected.Add(1)
		if l.over.Load() {
			leave(c)
		}
		err = converse(c, make([]byte, len(answer)+1))
	}
	switch {
	case l.over.Load():
		return false
	case err != nil:
		l.failed <- err
		return false
	}
	l.answered.Add(1)
	return true
}

// ended is how many have been answered or lost.
func (l *line) ended() int { return int(l.answered.Load()) + len(l.failed) }

// cut has all clients leave at once.
func (l *line) cut() {
	l.over.Store(true)
	for i := range l.conns {
		if c := l.conns[i].Load(); c != nil {
			leave(c)
		}
	}
	l.all.Wait()
}

// leave resets the connection. A server may take one that was only closed for a client
// that still waits for its answer.
func leave(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// clear cuts the line, at a gate that is shut, and waits until nothing is left of it. For
// that the gate is open: a slot is not free before the service lets go of it.
func (l *line) clear(ctx context.Context) error {
	d := l.at
	l.cut()
	d.open()
	defer d.shut()
	if err := d.calm(ctx); err != nil {
		return err
	}
	// Those that were sent on in the middle of that may still wait for the service to
	// accept them. They come before this one.
	return d.askService(ctx)
}

// askService is a client that comes to the service itself.
func (d *doorway) askService(ctx context.Context) error {
	service, err := netip.ParseAddrPort(d.gated.addr())
	if err != nil {
		return err
	}
	c, err := dial(ctx, 0, service)
	if err != nil {
		return err
	}
	return converse(c, make([]byte, len(answer)+1))
}
