package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// adminCommands are the sub-commands of tcplock.
func adminCommands() (all []*cobra.Command) {
	for _, m := range []command{statusCommand(), topCommand(), {
		use:   "pause [<lock>] [--for <duration>]",
		short: "Pauses a lock, for a time or until it is resumed",
		long: `
Pauses a lock: it admits no connection, holders stay, the line grows, and waiters
keep their places. A pause survives a reload of the config, and ends with Caddy.`,
		lock:  lockOne,
		flags: forFlag,
	}, {
		use:   "resume [<lock>]",
		short: "Ends the pause of a lock",
		long: `
Ends the pause of a lock, however many commands have asked for it. The waiters go
on in their order.`,
		lock: lockOne,
	}, drainCommand(), {
		use:   "kick [<lock>] <id>",
		short: "Ends one connection",
		long: `
Ends one connection, a holder or a waiter. status and top show its id.`,
		lock: lockOne,
		arg:  "id",
		is:   "the id of a connection",
		check: func(c *call) error {
			if _, err := strconv.ParseUint(c.query.Get("id"), 10, 64); err != nil {
				return fmt.Errorf("found %q, expected the id of a connection, a whole number", c.query.Get("id"))
			}
			return nil
		},
		run: func(c *call) error {
			err := c.client.ask(c.Context(), c.lock, "kick", c.query, new(status.Lock))
			switch {
			case statusOf(err) == http.StatusNotFound:
				return fmt.Errorf("%s: found no connection %s, expected one that holds a slot or waits", c.lock, c.query.Get("id"))
			case err == nil:
				c.say("%s: kicked connection %s", c.lock, c.query.Get("id"))
			}
			return err
		},
	}, {
		use:   "run [<lock>] <moment> [--slot <n>] [--wait <duration>]",
		short: "Runs the hooks of a moment now",
		long: `
Runs the hooks that a lock has for a moment (activate, release, timeout, refuse,
idle), whether they are due or not. It waits until there is no holder, and the
lock admits no connection until the hooks are done.

Exit codes: 0, the hooks are done; 1, a hook has failed, or there are none; 4,
there was still a holder after --wait, and no hook has run.`,
		lock: lockOne,
		arg:  "moment",
		is:   "a moment",
		flags: func(c *call) {
			parameter(c, "slot", "run the hooks for this slot's `worker` only", slot)
			parameter(c, "wait", "longest `duration` of the wait for the holders (default no limit)", positive)
		},
		run: func(c *call) error {
			var answer struct {
				Hooks int `json:"hooks"`
			}
			err := c.client.ask(c.Context(), c.lock, "run", c.query, &answer)
			switch {
			case statusOf(err) == http.StatusGatewayTimeout:
				return &codedError{exitOutOfTime, fmt.Errorf("%s: there was still a holder after %s, no hook has run",
					c.lock, c.query.Get("wait"))}
			case err == nil:
				c.say("%s: ran %s of %s", c.lock, opts.Count(answer.Hooks, "hook"), c.query.Get("moment"))
			}
			return err
		},
	}, {
		use:   "restart [<lock>] [--slot <n>]",
		short: "Restarts the service that a lock runs",
		long: `
Restarts the processes of a lock's own service, each as soon as its slot has no
holder. The command does not wait for that. It leaves alone a process that is
stopped, or is about to start or to stop.`,
		lock:  lockOne,
		flags: func(c *call) { parameter(c, "slot", "restart the process of this slot only", slot) },
		run: func(c *call) error {
			var s status.Lock
			if err := c.client.ask(c.Context(), c.lock, "restart", c.query, &s); err != nil {
				return err
			}
			for _, w := range s.Workers {
				if asked := c.query.Get("slot"); w.Process != nil && (asked == "" || asked == strconv.Itoa(w.Slot)) {
					c.say("%s: slot %d: %s", c.lock, w.Slot, restartText(&s, &w))
				}
			}
			return nil
		},
	}, planCommand()} {
		all = append(all, m.cobra())
	}
	return all
}

// restartText says when a process restarts after the command. A restart leaves alone a process
// that is stopped, starting or stopping; then the text is its state.
func restartText(s *status.Lock, w *status.Worker) string {
	if w.Process.Due == "" {
		return "is " + w.Process.State
	}
	for _, c := range s.Holders {
		if c.Slot == w.Slot {
			return fmt.Sprintf("restarts when connection %d (%s) has ended", c.ID, c.Client)
		}
	}
	return "restarts now"
}

func statusCommand() command {
	var asJSON bool
	return command{
		use:   "status [<lock>] [--json]",
		short: "Shows the locks of the running Caddy",
		long: `
Shows all locks, a line for each. With a name, it shows the lock's holders, its
line, its workers and its last events.

OLDEST is how long the waiter that came first has been in line. P50 and P99 are
the time in line that 50 and 99 of 100 did not exceed, of the last 256 connections
that got a slot. The other figures count connections that have ended since the
lock exists: served; refused (refused_full, refused_paused, wait_timeout,
worker_down, hook_failed, shutdown); failed (hold_timeout, service_error); gone
(client_gone, kicked). STATE is open, or

	failing         the activate hooks refuse connections
	paused          the lock admits no connection until it is resumed, or for
	                the time that is left
	hooks alone     the lock admits no connection while hooks run that must be
	                alone, or wait to be alone
	slow            the oldest waiter has been in line for more than 10s, and
	                longer than any of the last 256 that got a slot
	... down        the lock cannot reach these workers, or their process fails
	... left over   connections that lost their slot and are still open at
	                the service`,
		lock: lockOrAll,
		flags: func(c *call) {
			c.Flags().BoolVar(&asJSON, "json", false, "print the JSON of the admin API as it is")
		},
		run: func(c *call) (err error) {
			var lines []textLine
			switch {
			case asJSON:
				var answer json.RawMessage
				if err = c.client.ask(c.Context(), c.lock, "", nil, &answer); err == nil {
					_, err = fmt.Fprintf(c.OutOrStdout(), "%s\n", bytes.TrimSpace(answer)) // JSON escapes what cannot be printed
				}
				return err
			case c.lock == "":
				var locks []status.Lock
				locks, err = c.client.locks(c.Context(), 0)
				lines = locksTable(locks, nil).lines(0, 0, nil)
			default:
				var s status.Lock
				err = c.client.ask(c.Context(), c.lock, "", nil, &s)
				lines = lockLines(&s)
			}
			if err != nil {
				return err
			}
			return printLines(c.OutOrStdout(), lines)
		},
	}
}

func drainCommand() command {
	var (
		wait    bool
		timeout time.Duration
	)
	return command{
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
		flags: func(c *call) {
			c.Flags().BoolVar(&wait, "wait", false, "wait until the last holder has ended")
			c.Flags().Func("timeout", "longest `duration` of the wait (default no limit)", opts.One(&timeout, positive).Value)
			forFlag(c)
		},
		check: func(*call) error {
			if timeout > 0 && !wait {
				return errors.New("found --timeout without --wait, expected both")
			}
			return nil
		},
		run: func(c *call) error {
			s, err := c.verb("pause")
			if err != nil || !wait {
				return err
			}
			begin := time.Now()
			if err := drained(c.Context(), &s, timeout, c.poll); err != nil {
				return err
			}
			c.say("%s: drained after %s", c.lock, text.Brief(time.Since(begin)))
			if s.LeftOver > 0 {
				left := opts.Count(s.LeftOver, "connection")
				c.say("%s: %s left over: without a slot, and still open at the service", c.lock, left)
			}
			return nil
		},
	}
}

const (
	firstPoll      = 50 * time.Millisecond // time before the first poll; then it doubles
	slowestPoll    = time.Second
	unreachableFor = 10 * time.Second // after that without an answer, the wait fails
)

// drained waits until the last holder of a paused lock has ended, and no hook runs that must be
// alone. It keeps s up to date. It polls, and does not use the verb drain of the admin API. A reload
// of the config closes the verb's connection, and a second request would pause the lock again,
// although an operator may have resumed it.
func drained(ctx context.Context, s *status.Lock, timeout time.Duration, poll pollFunc) error {
	paused, begin := s.Paused, time.Now()
	answered := begin
	for pause := firstPoll; ; pause = min(2*pause, slowestPoll) {
		left := timeout - time.Since(begin)
		switch p := s.Paused; {
		case p == nil || !p.Since.Equal(paused.Since):
			return &codedError{exitResumed, fmt.Errorf("%s: it was resumed, its pause was over, or Caddy was restarted, "+
				"before the last holder had ended", s.Name)}
		case s.Held == 0 && !s.Exclusive:
			return nil
		case timeout == 0:
			left = pause
		case left <= 0:
			there := opts.Count(s.Held, "holder")
			if s.Held == 0 {
				there = "a hook that must be alone"
			}
			return &codedError{exitOutOfTime, fmt.Errorf("%s: still %s after %s; it stays paused", s.Name, there, timeout)}
		}
		if !clock.Sleep(ctx, min(pause, left)) {
			return ctx.Err()
		}
		if found, err := poll(ctx); err == nil {
			answered, *s = time.Now(), found
		} else if time.Since(answered) > unreachableFor {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
}

// The flags that several commands have, and the parsers of flags.

func forFlag(c *call) {
	parameter(c, "for", "resume the lock by itself after this `duration` (default: not by itself)", positive)
}

// parameter adds a flag that is a parameter of the request.
func parameter[T any](c *call, name, usage string, parse func(string) (T, error)) {
	c.Flags().Func(name, usage, func(s string) error {
		value, err := parse(s)
		c.query.Set(name, fmt.Sprint(value))
		return err
	})
}

func positive(s string) (time.Duration, error) {
	d, err := opts.Duration(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("found %s, expected a duration of more than 0", s)
	}
	return time.Duration(d), err
}

func slot(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		err = fmt.Errorf("found %q, expected the number of a slot, from 1", s)
	}
	return n, err
}
