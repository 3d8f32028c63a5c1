package client

import (
	"errors"
	"os"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

// Bounds of Discard. They are those of nginx's lingering close.
const (
	discardSilence = 5 * time.Second
	discardTotal   = 30 * time.Second
)

// Discard reads what the client still sends and throws it away, until the client closes, is silent
// for 5 seconds, or has sent for 30. To close a connection with unread data resets it, and a reset
// can destroy the end of the reply on its way. Discard is called after the slot was released, so
// no other client waits for it.
func (c *Conn) Discard() {
	if _, ok := c.socket.(*sock.Conn); c.heardAll() || ok && c.TryDiscard() {
		return
	}
	last := time.Now().Add(discardTotal)
	buf := make([]byte, 512) // small, as mostly nothing comes
	from, farewell := c.socket, false
	if c.layered {
		from = c.Conn // the socket also carries the closing alert of TLS, which is not data
	}
	for {
		_ = c.socket.SetReadDeadline(time.Now().Add(min(discardSilence, time.Until(last))))
		n, err := from.Read(buf)
		if !farewell && c.Signs.served.Load() { // what a refused client sends is not for the service
			c.Traffic.DiscardedIn.Add(int64(n))
		}
		switch {
		case err == nil:
		case !c.layered || farewell || errors.Is(err, os.ErrDeadlineExceeded):
			return
		default:
			from, farewell = c.socket, true // TLS has ended, but perhaps not the connection below
		}
	}
}

// heardAll reports whether nothing more can come from the client, or nothing that closing would harm.
func (c *Conn) heardAll() bool { return !c.Signs.serviceDone.Load() || c.Signs.inputEnded.Load() }

// TryDiscard is Discard that does not wait. It reports whether Discard would not have to either. It is for the
// connections of Over.
func (c *Conn) TryDiscard() (done bool) {
	var buf [512]byte
	for range 4 { // a client that floods must not hold the caller up
		if c.heardAll() {
			return true
		}
		n, err := c.socket.(*sock.Conn).TryRead(buf[:])
		if c.Signs.served.Load() {
			c.Traffic.DiscardedIn.Add(int64(n))
		}
		if err == sock.ErrNotNow {
			return false
		}
		c.Signs.inputEnded.Store(err != nil)
	}
	return c.heardAll()
}
