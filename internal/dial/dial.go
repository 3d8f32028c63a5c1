// Package dial finds out whether a service is at an address, without disturbing it.
package dial

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
	timeout  = 2 * time.Second
	farewell = 100 * time.Millisecond
)

// ListenFor is how long a probe listens. Tests in which a forwarder must not be late set it
// higher.
var ListenFor = 50 * time.Millisecond

// Windows uses neither ECONNREFUSED nor ECONNRESET.
const (
	wsaeConnReset   = syscall.Errno(10054)
	wsaeConnRefused = syscall.Errno(10061)
)

var errCutShort = errors.New("it accepts connections, but the probe could not go on")

var errNothingBehind = errors.New("it accepts connections and closes them at once: nothing stands behind it")

// Probe returns nil if a service is at an address.
//
// It is not enough that the address accepts a connection: a forwarder, such as a container's
// published port, also accepts when nothing stands behind it, and then closes at once.
// So probe listens for a while, unless listen is 0. A service that sends something in that
// time, or stays silent, is there.
//
// Then probe leaves like a client that has nothing to ask: it closes its side, gives the
// service some time to close too, and closes. A reset would be faster, but the next call of a
// plain server fails of it, and many servers do not survive that.
func Probe(ctx context.Context, network, host string, listen time.Duration) error {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, host)
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
	_ = conn.(interface{ CloseWrite() error }).CloseWrite() // both TCP and unix connections have it
	for end := time.Now().Add(farewell); ; {
		if _, err := readFor(ctx, conn, time.Until(end)); err != nil {
			return nil
		}
	}
}

// readFor reads what comes within d and before ctx is done.
func readFor(ctx context.Context, conn net.Conn, d time.Duration) (n int, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(d))
	if ctx.Err() != nil { // our deadline may have overwritten the one that the end of ctx has set
		return 0, os.ErrDeadlineExceeded
	}
	return conn.Read(make([]byte, 4<<10))
}

// absent reports whether the error of a probe means that there is no service: nothing listens, or
// nothing stands behind what listens. Other errors say nothing about that.
func absent(network string, err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaeConnRefused) || errors.Is(err, errNothingBehind) ||
		network == "unix" && errors.Is(err, fs.ErrNotExist)
}
