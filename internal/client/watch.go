package client

import (
	"errors"
	"os"
	"sync"
	"time"
)

// peer is what a look at the client's socket shows.
type peer uint8

const (
	peerOpen        peer = iota
	peerClosed           // it has closed its sending side; unread data is there
	peerClosedEmpty      // it has closed its sending side; nothing is there to be read
	peerReset            // the connection is broken
)

// Woken says what ended a park.
type Woken uint8

const (
	Called Woken = iota
	TimedOut
	Gone // the client has gone
)

// wakeUp is one wake-up call for a connection's goroutine. A call before the park is
// kept for it; calls may be one too many, so who was woken looks at the queue.
type wakeUp struct {
	mu       sync.Mutex
	called   bool
	onSocket bool          // parked on the socket: a deadline in the past ends that
	channel  chan struct{} // parked on a channel, if not nil
}

// Wake ends the connection's park, or its next one. A deadline may only be set while
// its goroutine is parked on the socket: one moment later the proxy reads from it. So
// the mutex decides between a late wake-up and a park that ended by itself, and the
// loser only leaves its mark.
func (c *Conn) Wake() {
	c.wakeUp.mu.Lock()
	defer c.wakeUp.mu.Unlock()
	c.wakeUp.called = true
	if c.wakeUp.onSocket {
		_ = c.socket.SetReadDeadline(time.Unix(1, 0))
	}
	if c.wakeUp.channel != nil {
		close(c.wakeUp.channel)
		c.wakeUp.channel = nil
	}
}

// Park waits for a wake-up, for the time (zero: none), or for the client to go. The
// goroutine parks on the client's socket, in the runtime's poller, so that a waiter
// costs no second goroutine and no timer of its own. Where the socket is out of reach
// it parks on a channel, and does not see the client go.
func (c *Conn) Park(until time.Time) Woken {
	if c.raw == nil {
		return c.ParkOnChannel(until, nil)
	}
	c.wakeUp.mu.Lock()
	if c.wakeUp.called {
		c.wakeUp.called = false
		c.wakeUp.mu.Unlock()
		return Called
	}
	c.wakeUp.onSocket = true
	_ = c.socket.SetReadDeadline(until)
	c.wakeUp.mu.Unlock()

	var seen peer
	err := c.raw.Read(func(fd uintptr) bool {
		seen = look(fd)
		// Ignore a FIN that does not end the connection: that has been decided.
		return seen == peerReset || seen != peerOpen && !c.Input.fin
	})

	c.wakeUp.mu.Lock()
	woken := c.wakeUp.called
	c.wakeUp.called, c.wakeUp.onSocket = false, false
	_ = c.socket.SetReadDeadline(time.Time{})
	c.wakeUp.mu.Unlock()
	switch {
	case woken:
		return Called
	case errors.Is(err, os.ErrDeadlineExceeded):
		return TimedOut
	case err != nil || c.classify(seen):
		return Gone
	}
	return Called // a FIN that is kept: look at the queue, and park again
}

// ParkOnChannel waits for a wake-up, for the time (zero: none), or for done.
func (c *Conn) ParkOnChannel(until time.Time, done <-chan struct{}) Woken {
	c.wakeUp.mu.Lock()
	if c.wakeUp.called {
		c.wakeUp.called = false
		c.wakeUp.mu.Unlock()
		return Called
	}
	channel := make(chan struct{})
	c.wakeUp.channel = channel
	c.wakeUp.mu.Unlock()

	var timeout <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		timeout = timer.C
	}
	result := Called
	select {
	case <-channel:
	case <-timeout:
		result = TimedOut
	case <-done:
		result = Gone
	}

	c.wakeUp.mu.Lock()
	defer c.wakeUp.mu.Unlock()
	if c.wakeUp.called {
		result = Called
	}
	c.wakeUp.called, c.wakeUp.channel = false, nil
	return result
}
