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

	var last error
	for pause := MinPause; ; pause = min(2*pause, maxPause) {
		err := Probe(bounded, network, host, ListenFor)
		met = met || err == nil || errors.Is(err, errNoService) || errors.Is(err, errCutShort)
		if what == Open && err == nil || what == Closed && absent(network, err) {
			return met, nil
		}
		if err == nil {
			err = errors.New("it accepts connections")
		}
		// The last probe may have been cut short. Its error tells nothing.
		if last == nil || bounded.Err() == nil {
			last = err
		}
		if !clock.Sleep(bounded, pause) {
			break
		}
	}
	if ctx.Err() != nil {
		return met, fmt.Errorf("wait %s: stopped: %w", address, context.Cause(ctx))
	}
	return met, fmt.Errorf("wait %s: not %s after %s: %w", address, what, timeout, last)
}
