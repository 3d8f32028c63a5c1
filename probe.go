package tcplock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	farewell    = 100 * time.Millisecond
)

// listenFor is how long a probe listens. Tests whose forwarder must not be late have it
// longer.
var listenFor = 50 * time.Millisecond

// Windows uses neither ECONNREFUSED nor ECONNRESET.
const (
	wsaeConnReset   = syscall.Errno(10054)
	wsaeConnRefused = syscall.Errno(10061)
)

var errCutShort = errors.New("it accepts connections, but the probe could not go on")

var errNothingBehind = errors.New("it accepts connections and closes them at once: nothing stands behind it")

// probe returns nil if a service is at an address.
//
// That the address accepts a connection is not enough: a forwarder, such as a container's
// published port, accepts as well when nothing stands behind it, and then closes at once.
// So probe listens for a while, unless listen is 0. A service that says something in that
// time, or nothing, is there.
//
// Then probe leaves as a client does that has nothing to ask: it closes its side, gives the
// service some time to close too, and closes. A reset would be faster, but a plain server's
// next call fails of it, and many servers do not survive that.
func probe(ctx context.Context, network, host string, listen time.Duration) error {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, host)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, wsaeConnReset) {
		return errNothingBehind // it was so fast that the connection was not seen to be open
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	cut := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer cut()
	if listen > 0 {
		switch n, err := readFor(ctx, conn, listen); {
		case n > 0:
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", errCutShort, context.Cause(ctx))
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return errNothingBehind
		}
	}
	_ = closeWrite(conn)
	for end := time.Now().Add(farewell); ; {
		if _, err := readFor(ctx, conn, time.Until(end)); err != nil {
			return nil
		}
	}
}

// readFor reads what comes within d, and not after ctx is done.
func readFor(ctx context.Context, conn net.Conn, d time.Duration) (n int, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(d))
	if ctx.Err() != nil { // what it has set may be overwritten
		return 0, os.ErrDeadlineExceeded
	}
	return conn.Read(make([]byte, 4<<10))
}

// absent reports whether a probe's error says that there is no service: nothing listens, or
// nothing stands behind what listens. Other errors tell nothing.
func absent(network string, err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaeConnRefused) || errors.Is(err, errNothingBehind) ||
		network == "unix" && errors.Is(err, fs.ErrNotExist)
}
