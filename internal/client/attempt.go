package client

import (
	"crypto/tls"
	"errors"
	"net"

	"github.com/mholt/caddy-l4/layer4"
)

// attempt is one call of the next handler.
type attempt struct {
	conn            *Conn
	cx              *layer4.Connection
	unused, matched int64 // see result.untouched
}

// Result is what one call of the next handler has come to, as far as the lock can tell.
type Result struct {
	Used      bool // the handler has used the connection: it has reached the service
	Dial      bool // the handler could not connect to the service
	Untouched bool // all bytes of the client are still there for another attempt
}

// Begin notes what the next handler finds.
func (c *Conn) Begin(cx *layer4.Connection) attempt {
	return attempt{c, cx, c.Traffic.unused.Load(), int64(len(cx.MatchingBytes()))}
}

// Classify says what has come of the call, which has returned err.
func (a attempt) Classify(err error) Result {
	after := a.conn.Begin(a.cx)
	return Result{
		Used:      a.conn.Signs.used.Load(),
		Dial:      isDial(err),
		Untouched: after.unused-a.unused+a.matched-after.matched == 0,
	}
}

// isDial reports whether err says that somebody could not be connected to. It is nothing
// that a client can bring about by what it sends.
func isDial(err error) bool {
	if err == nil {
		return false // op would be an allocation for each connection
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// HeaderError says that the PROXY header before the lock is broken. proxy_protocol (v0.1.2)
// passes such a connection on, and each read from it fails: it would take a slot for nothing.
func HeaderError(conn net.Conn) error {
	for {
		switch below := conn.(type) {
		case *layer4.Connection:
			conn = below.Conn
		case *tls.Conn:
			conn = below.NetConn()
		case interface {
			net.Conn
			Raw() net.Conn
		}: // go-proxyproto, which has read the header, and says what came of it before it reads on
			_, err := below.Read(nil)
			return err
		default: // the socket, or a lock that has asked already
			return nil
		}
	}
}
