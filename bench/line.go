package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// doorway is a target with a service of its own. The service serves one connection at a time, and
// only while its gate is open.
type doorway struct {
	*target
	*gated
	bench   *bench
	server  server
	waiters int
}

// doorway starts a server that has room for so many waiters, and warms it up with some connections.
// After that the gate is shut.
func (b *bench) doorway(ctx context.Context, s server, waiters int) (*doorway, error) {
	g, err := newGated()
	if err != nil {
		return nil, err
	}
	g.shut()
	d := &doorway{gated: g, bench: b, server: s, waiters: waiters}
	if err := d.startServer(ctx); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// startServer starts or restarts the server.
func (d *doorway) startServer(ctx context.Context) (err error) {
	if d.target != nil {
		d.target.stop()
	}
	d.open()
	defer d.shut()
	if d.target, err = d.bench.start(ctx, front{service: d.gated.addr(), slots: 1, locks: 1, waiters: d.waiters}, d.server); err != nil {
		return err
	}
	if _, err := (load{clients: clients, time: d.bench.duration / 4}).run(ctx, d.target); err != nil {
		return err
	}
	return d.calm(ctx)
}

// calm waits until the server has neither accepted nor closed a connection for a while.
func (d *doorway) calm(ctx context.Context) error { return d.target.calm(ctx, d.bench.settle/15) }

// stop must be called with the gate shut.
func (d *doorway) stop() {
	if d.target != nil {
		d.target.stop()
	}
	d.gate.Unlock()
	d.gated.stop()
}

// line has the clients that wait at a doorway, and the one that has the slot.
type line struct {
	at        *doorway
	conns     []atomic.Pointer[net.TCPConn]
	over      atomic.Bool
	failed    chan error
	connected atomic.Int64 // how many connections there were
	answered  atomic.Int64
	all       sync.WaitGroup
}

// line connects n clients that wait, and one that has the slot. If again is set, a client that has
// its answer connects again.
func (d *doorway) line(ctx context.Context, n int, again bool) (*line, error) {
	l := &line{at: d, conns: make([]atomic.Pointer[net.TCPConn], n+1), failed: make(chan error, n+1)}
	// More at once than the backlog of the listener would have to try again a second later.
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
		err = d.calm(ctx) // then the server has accepted all
	}
	if err != nil {
		l.cut()
	}
	return l, err
}

// ask is one connection of client i. It returns false if the line is over or the connection failed.
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

// ended is how many connections were answered or have failed.
func (l *line) ended() int { return int(l.answered.Load()) + len(l.failed) }

// cut makes all clients leave at once.
func (l *line) cut() {
	l.over.Store(true)
	for i := range l.conns {
		if c := l.conns[i].Load(); c != nil {
			leave(c)
		}
	}
	l.all.Wait()
}

// leave resets the connection. After a mere close, a server may think that the client still waits for
// its answer.
func leave(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// clear cuts the line while the gate is shut, and waits until nothing is left of it. While it waits
// the gate is open, because a slot comes free only when the service closes.
func (l *line) clear(ctx context.Context) error {
	d := l.at
	l.cut()
	d.open()
	defer d.shut()
	if err := d.calm(ctx); err != nil {
		return err
	}
	// Connections that the server has just passed on may still wait until the service accepts
	// them. They come before this one.
	return d.askService(ctx)
}

// askService is a client that connects to the service directly.
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
