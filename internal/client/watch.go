package client

import (
	"errors"
	"os"
	"sync"
	"time"
)

// peer is the state of the client's socket, see look.
type peer uint8

const (
	peerOpen        peer = iota
	peerClosed           // the client has closed its sending side; there is unread data
	peerClosedEmpty      // the client has closed its sending side; there is no unread data
	peerReset            // the connection is broken
)

// Woken tells why Park or ParkOnChannel has returned.
type Woken uint8

const (
	Called   Woken = iota // by Wake, or for no reason
	TimedOut              // the time is over
	Gone                  // the client has gone, or done is closed
)

// wakeUp wakes the goroutine of one connection. A call that comes before the park ends the next
// park at once. There may be one call too many, so after each the goroutine checks the queue.
type wakeUp struct {
	mu       sync.Mutex
	called   bool
	onSocket bool          // parked on the socket: a deadline in the past ends that
	channel  chan struct{} // parked on a channel, if not nil
}

// Wake ends the connection's park, or its next one. It may set a deadline only while the goroutine
// is parked on the socket: a moment later the proxy reads from it. So the mutex decides which is
// first, Wake or another end of the park. If Wake is late, it only sets called.
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

// Park waits for Wake, until the given time (zero: no limit), or until the client has gone. The
// goroutine parks on the client's socket, in the poller of the Go runtime, so that a waiter needs
// no second goroutine and no timer. Where the socket is out of reach, it parks on a channel, and
// does not see the client go.
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
		// Ignore a FIN that classify has already decided to keep.
		return seen == peerReset || seen != peerOpen && !c.Input.Fin
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
	return Called // a FIN that is kept: the caller checks the queue and parks again
}

// ParkOnChannel waits for Wake, until the given time (zero: no limit), or for done.
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
