package dial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
)

// The states that Await can wait for.
const (
	Open   = "open"   // a service is at the address
	Closed = "closed" // none is
)

// The pauses between two probes double from MinPause to maxPause.
const (
	MinPause = 20 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// Await waits until the address is Open or Closed, for timeout at most. It returns an error if it is
// not by then, or if ctx is done before. met reports whether the address has accepted a probe at any
// time, even with no service behind it.
func Await(ctx context.Context, address, what string, timeout time.Duration) (met bool, err error) {
	network, host, err := Address(address)
	if err != nil {
		return false, fmt.Errorf("wait: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	last := clock.Retry(bounded, MinPause, maxPause, func() error {
		err := Probe(bounded, network, host, ListenFor)
		met = met || err == nil || errors.Is(err, errNoService) || errors.Is(err, errCutShort)
		switch {
		case what == Open:
			return err
		case absent(network, err):
			return nil
		case err == nil:
			return errors.New("it accepts connections")
		}
		return err
	})
	if last == nil {
		return met, nil
	}
	if ctx.Err() != nil {
		return met, fmt.Errorf("wait %s: stopped: %w", address, context.Cause(ctx))
	}
	return met, fmt.Errorf("wait %s: not %s after %s: %w", address, what, timeout, last)
}
