package client

import (
	"errors"
	"net"

	"github.com/mholt/caddy-l4/layer4"
)

// Attempt is one call of the next handler. It holds what was true before the call.
type Attempt struct {
	conn            *Conn
	cx              *layer4.Connection
	unused, matched int64 // bytes; see Result.Untouched
}

// Result describes how one call of the next handler ended, as far as the lock can tell.
type Result struct {
	Used      bool // the handler has used the connection, so the connection has reached the service
	Dial      bool // the handler could not connect to the service
	Untouched bool // all bytes of the client are still there for another attempt
}

// Begin is called just before the next handler is. Classify then compares.
func (c *Conn) Begin(cx *layer4.Connection) Attempt {
	return Attempt{c, cx, c.Traffic.unused.Load(), int64(len(cx.MatchingBytes()))}
}

// Classify tells how the call ended. err is what the handler returned.
func (a Attempt) Classify(err error) Result {
	after := a.conn.Begin(a.cx)
	return Result{
		Used:      a.conn.Signs.used.Load(),
		Dial:      isDial(err),
		Untouched: after.unused-a.unused+a.matched-after.matched == 0,
	}
}

// isDial reports whether err says that a connection to the service failed. Nothing that a client
// sends can cause such an error, so it may count against the worker.
func isDial(err error) bool {
	if err == nil {
		return false // op would be an allocation for each connection
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// HeaderError returns an error if the PROXY header that was read before the lock is broken, and nil
// if it is fine or there is none. proxy_protocol (v0.1.2) passes a connection with a broken header
// on, and each read from it fails: it would take a slot for nothing.
func HeaderError(conn net.Conn) error {
	for ; conn != nil; conn = under(conn) {
		switch conn.(type) {
		case *Conn: // an outer lock has checked already
			return nil
		case interface{ Raw() net.Conn }: // go-proxyproto: an empty read returns the error of the header, and does not read on
			_, err := conn.Read(nil)
			return err
		}
	}
	return nil
}
