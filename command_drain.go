package tcplock

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
		short: "Pauses a lock, and waits until its last holder is gone",
		long: `
Pauses a lock; with --wait, the command is over when its last holder is gone, so
that

	$ caddy tcplock drain soffice --wait --timeout 60s && deploy && caddy tcplock resume soffice

deploys when nobody is at the service. The lock stays paused in any case, also if
the time is over: resume ends that, or --for, in case the script never gets there.

Exit codes: 0, the last holder is gone; 1, it failed; 4, there were still holders
after --timeout; 5, somebody resumed the lock meanwhile.

The command goes on through a reload of the config.`,
		lock: lockOne,
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVar(&wait, "wait", false, "wait until the last holder is gone")
			durationFlag(fs, &timeout, "timeout", "longest `duration` of the wait (default none)")
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
			d := drainage{status: found, timeout: time.Duration(timeout), look: func(ctx context.Context) (status status.Lock, err error) {
				err = c.client.get(ctx, lockPath(c.lock, ""), url.Values{"waiters": {"0"}}, &status)
				return status, err
			}}
			begin := time.Now()
			if err := d.wait(c.Context()); err != nil {
				return err
			}
			c.say("%s: drained after %s", c.lock, text.Brief(time.Since(begin)))
			if n := d.status.LeftOver; n > 0 {
				c.say("%s: still at the service without a slot: %s", c.lock, opts.Count(n, "connection"))
			}
			return nil
		},
	}.cobra()
}

// drainage is the wait for the end of a paused lock's holders. It looks again and again
// instead of asking the admin API to tell: a look pauses nothing, so that somebody's
// resume is never overridden, and it does not matter that a reload closes connections.
type drainage struct {
	status  status.Lock // of the last look
	timeout time.Duration
	look    func(context.Context) (status.Lock, error)
}

const (
	firstLook      = 50 * time.Millisecond // pause before the first look; then it doubles
	slowestLook    = time.Second
	unreachableFor = 10 * time.Second // after that nobody is expected to answer again
)

// wait returns nil when the last holder is gone, and no hook runs that must be alone.
func (d *drainage) wait(ctx context.Context) error {
	paused, begin := d.status.Paused, time.Now()
	answered := begin
	for pause := firstLook; ; pause = min(2*pause, slowestLook) {
		left := d.timeout - time.Since(begin)
		switch p := d.status.Paused; {
		case p == nil || !p.Since.Equal(paused.Since):
			return &codedError{exitResumed, fmt.Errorf("%s: somebody resumed it, or Caddy was restarted, before the last holder was gone", d.status.Name)}
		case d.status.Held == 0 && !d.status.Exclusive:
			return nil
		case d.timeout == 0:
			left = pause
		case left <= 0:
			there := opts.Count(d.status.Held, "holder")
			if d.status.Held == 0 {
				there = "hooks at work"
			}
			return &codedError{exitOutOfTime, fmt.Errorf("%s: still %s after %s; it stays paused", d.status.Name, there, d.timeout)}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(pause, left)):
		}
		status, err := d.look(ctx)
		if err == nil {
			answered, d.status = time.Now(), status
		} else if time.Since(answered) > unreachableFor {
			return fmt.Errorf("%s: %w", d.status.Name, err)
		}
	}
}
