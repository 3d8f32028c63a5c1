package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func drainCommand() *cobra.Command {
	var (
		wait           bool
		timeout, pause caddy.Duration
	)
	return adminCommand{
		use:   "drain [<lock>] [--wait [--timeout <duration>]] [--for <duration>]",
		short: "Pauses a lock, and waits until its last holder has ended",
		long: `
Pauses a lock. With --wait, it then waits until the last holder has ended. So this
deploys while the service has no client:

	$ caddy tcplock drain soffice --wait --timeout 60s && deploy && caddy tcplock resume soffice

The lock stays paused however the wait ends, also after --timeout. resume ends the
pause. With --for it also ends by itself, in case the script dies before resume.

Exit codes: 0, the last holder has ended; 1, the command failed; 4, there was
still a holder after --timeout; 5, before the last holder had ended, the lock was
resumed, its pause was over, or Caddy was restarted.

The wait goes on through a reload of the config.`,
		lock: lockOne,
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVar(&wait, "wait", false, "wait until the last holder has ended")
			durationFlag(fs, &timeout, "timeout", "longest `duration` of the wait (default no limit)")
			forFlag(fs, &pause)
		},
		check: func([]string) error {
			if timeout > 0 && !wait {
				return errors.New("found --timeout without --wait, expected both")
			}
			return nil
		},
		run: func(c *call) error {
			found, err := c.verb("pause", optionalQuery("for", pause))
			if err != nil || !wait {
				return err
			}
			d := drainage{status: found, timeout: time.Duration(timeout), poll: func(ctx context.Context) (status status.Lock, err error) {
				err = c.client.get(ctx, lockPath(c.lock, ""), url.Values{"waiters": {"0"}}, &status)
				return status, err
			}}
			begin := time.Now()
			if err := d.wait(c.Context()); err != nil {
				return err
			}
			c.say("%s: drained after %s", c.lock, text.Brief(time.Since(begin)))
			if n := d.status.LeftOver; n > 0 {
				c.say("%s: %s left over: without a slot, and still open at the service", c.lock, opts.Count(n, "connection"))
			}
			return nil
		},
	}.cobra()
}

// drainage is the wait for the last holder of a paused lock. It polls, and does not use the
// verb drain of the admin API. A reload of the config closes the verb's connection, and a
// second request would pause the lock again, although an operator may have resumed it.
type drainage struct {
	status  status.Lock // as last polled
	timeout time.Duration
	poll    func(context.Context) (status.Lock, error)
}

const (
	firstPoll      = 50 * time.Millisecond // time before the first poll; then it doubles
	slowestPoll    = time.Second
	unreachableFor = 10 * time.Second // after that without an answer, the wait fails
)

// wait returns nil when the last holder has ended, and no hook runs that must be alone.
func (d *drainage) wait(ctx context.Context) error {
	paused, begin := d.status.Paused, time.Now()
	answered := begin
	for pause := firstPoll; ; pause = min(2*pause, slowestPoll) {
		left := d.timeout - time.Since(begin)
		switch p := d.status.Paused; {
		case p == nil || !p.Since.Equal(paused.Since):
			return &codedError{exitResumed, fmt.Errorf("%s: it was resumed, its pause was over, or Caddy was restarted, before the last holder had ended", d.status.Name)}
		case d.status.Held == 0 && !d.status.Exclusive:
			return nil
		case d.timeout == 0:
			left = pause
		case left <= 0:
			there := opts.Count(d.status.Held, "holder")
			if d.status.Held == 0 {
				there = "a hook that must be alone"
			}
			return &codedError{exitOutOfTime, fmt.Errorf("%s: still %s after %s; it stays paused", d.status.Name, there, d.timeout)}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(pause, left)):
		}
		status, err := d.poll(ctx)
		if err == nil {
			answered, d.status = time.Now(), status
		} else if time.Since(answered) > unreachableFor {
			return fmt.Errorf("%s: %w", d.status.Name, err)
		}
	}
}
