package cli

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// askLock takes from the lock what the user has not given.
func (q *question) askLock(c *call) error {
	poll := func(ctx context.Context) (status status.Lock, err error) {
		err = c.client.get(ctx, lockPath(c.lock, ""), url.Values{"waiters": {"0"}}, &status)
		return status, err
	}
	if q.rate > 0 && q.hold > 0 {
		status, err := poll(c.Context())
		if q.slots == 0 {
			q.slots = status.Slots
		}
		return err
	}
	c.PrintErrf("watching %s for %s\n", c.lock, time.Duration(q.watch))
	found, err := watchLock(c.Context(), time.Duration(q.watch), poll)
	if err != nil {
		return fmt.Errorf("%s: %w", c.lock, err)
	}
	if q.rate == 0 {
		q.rate = found.rate
	}
	if q.hold == 0 {
		q.hold = caddy.Duration(found.hold)
	}
	if q.slots == 0 {
		q.slots = found.slots
	}
	return nil
}

// observed has what plan needs to know of a lock.
type observed struct {
	rate  float64       // connections that came each second
	hold  time.Duration // with a slot, on average
	slots int
}

// watchLock polls a lock so many times, if the interval is not shorter than this.
const (
	watchPolls    = 300
	leastInterval = 100 * time.Millisecond
)

// watchLock observes a lock for a while. The time with a slot, with hooks and settle, follows
// from Little's law: the mean number of holders, divided by how many give up a slot each second.
func watchLock(ctx context.Context, watch time.Duration, poll func(context.Context) (status.Lock, error)) (*observed, error) {
	first, err := poll(ctx)
	if err != nil {
		return nil, err
	}
	last, held, n := first, 0, 0
	for begin := time.Now(); time.Since(begin) < watch; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(max(watch/watchPolls, leastInterval)):
		}
		if last, err = poll(ctx); err != nil {
			return nil, err
		}
		held += last.Held
		n++
		if last.Paused != nil || last.Exclusive {
			return nil, fmt.Errorf("found it %s, expected it to admit connections", lockState(&last).text)
		}
	}
	came := int64(arrivals(&last) - arrivals(&first))
	left := int64(departures(&last) - departures(&first))
	switch {
	case came < 0 || left < 0:
		return nil, fmt.Errorf("found its counts reset, as by a restart of Caddy, expected them to go on: watch it again")
	case came == 0 || left == 0 || held == 0:
		return nil, fmt.Errorf("found %s that came, %d that left and %s within %s, expected some of each: watch it for longer",
			opts.Count(int(came), "connection"), left, opts.Count(held, "holder"), watch)
	}
	took := last.Now.Sub(first.Now)
	return &observed{
		rate:  float64(came) / took.Seconds(),
		hold:  seconds(float64(held) / float64(n) * took.Seconds() / float64(left)),
		slots: last.Slots,
	}, nil
}

// arrivals returns how many connections have come.
func arrivals(s *status.Lock) uint64 {
	n := uint64(s.Held + s.Waiting)
	for _, ended := range s.Connections {
		n += ended
	}
	return n
}

// departures returns how many connections have given up a slot.
func departures(s *status.Lock) uint64 {
	return s.Connections[status.Served] + s.Connections[status.HoldTimeout] + s.Connections[status.ServiceError] + s.Connections[status.HookFailed]
}
