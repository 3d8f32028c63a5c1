package client

import (
	"errors"
	"os"
	"time"
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
	if !c.Signs.serviceDone.Load() || c.Signs.inputEnded.Load() {
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
