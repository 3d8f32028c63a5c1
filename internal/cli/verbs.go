package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// adminCommands are the sub-commands of tcplock.
func adminCommands() []*cobra.Command {
	return []*cobra.Command{
		statusCommand(), topCommand(),
		pauseCommand(), resumeCommand(), drainCommand(), kickCommand(), runCommand(), restartCommand(),
		planCommand(),
	}
}

func pauseCommand() *cobra.Command {
	var pause caddy.Duration
	return adminCommand{
		use:   "pause [<lock>] [--for <duration>]",
		short: "Pauses a lock, for a time or until it is resumed",
		long: `
Pauses a lock: it admits no connection, holders stay, the line grows, and waiters
keep their places. A pause survives a reload of the config, and ends with Caddy.`,
		lock:  lockOne,
		flags: func(fs *pflag.FlagSet) { forFlag(fs, &pause) },
		run: func(c *call) error {
			_, err := c.verb("pause", optionalQuery("for", pause))
			return err
		},
	}.cobra()
}

func resumeCommand() *cobra.Command {
	return adminCommand{
		use:   "resume [<lock>]",
		short: "Ends the pause of a lock",
		long: `
Ends the pause of a lock, however many commands have asked for it. The waiters go
on in their order.`,
		lock: lockOne,
		run: func(c *call) error {
			_, err := c.verb("resume", nil)
			return err
		},
	}.cobra()
}

func kickCommand() *cobra.Command {
	return adminCommand{
		use:   "kick [<lock>] <id>",
		short: "Ends one connection",
		long: `
Ends one connection, a holder or a waiter. status and top show its id.`,
		lock: lockOne,
		args: []string{"the id of a connection"},
		check: func(args []string) error {
			if _, err := strconv.ParseUint(args[0], 10, 64); err != nil {
				return fmt.Errorf("found %q, expected the id of a connection, a whole number", args[0])
			}
			return nil
		},
		run: func(c *call) error {
			id := c.args[0]
			_, err := c.client.verb(c.Context(), c.lock, "kick", url.Values{"id": {id}})
			if statusOf(err) == http.StatusNotFound {
				return fmt.Errorf("%s: found no connection %s, expected one that holds a slot or waits", c.lock, id)
			}
			if err == nil {
				c.say("%s: kicked connection %s", c.lock, id)
			}
			return err
		},
	}.cobra()
}

func runCommand() *cobra.Command {
	var (
		slot int
		wait caddy.Duration
	)
	return adminCommand{
		use:   "run [<lock>] <moment> [--slot <n>] [--wait <duration>]",
		short: "Runs the hooks of a moment now",
		long: `
Runs the hooks that a lock has for a moment (activate, release, timeout, refuse,
idle), whether they are due or not. It waits until there is no holder, and the
lock admits no connection until the hooks are done.

Exit codes: 0, the hooks are done; 1, a hook has failed, or there are none; 4,
there was still a holder after --wait, and no hook has run.`,
		lock: lockOne,
		args: []string{"a moment"},
		flags: func(fs *pflag.FlagSet) {
			slotFlag(fs, &slot, "run the hooks for this slot's `worker` only")
			durationFlag(fs, &wait, "wait", "longest `duration` of the wait for the holders (default no limit)")
		},
		run: func(c *call) error {
			query := optionalQuery("wait", wait)
			query.Set("moment", c.args[0])
			if slot > 0 {
				query.Set("slot", strconv.Itoa(slot))
			}
			var answer struct {
				Hooks int `json:"hooks"`
			}
			// No deadline here: hooks may take long, and Caddy bounds them.
			err := c.client.do(c.Context(), http.MethodPost, lockPath(c.lock, "run"), query, &answer)
			switch {
			case statusOf(err) == http.StatusGatewayTimeout:
				return &codedError{exitOutOfTime, fmt.Errorf("%s: there was still a holder after %s, no hook has run", c.lock, time.Duration(wait))}
			case err != nil:
				return err
			}
			c.say("%s: ran %s of %s", c.lock, opts.Count(answer.Hooks, "hook"), c.args[0])
			return nil
		},
	}.cobra()
}

func restartCommand() *cobra.Command {
	var slot int
	return adminCommand{
		use:   "restart [<lock>] [--slot <n>]",
		short: "Restarts the service that a lock runs",
		long: `
Restarts the processes of a lock's own service, each as soon as its slot has no
holder. The command does not wait for that. It leaves alone a process that is
stopped, or is about to start or to stop.`,
		lock:  lockOne,
		flags: func(fs *pflag.FlagSet) { slotFlag(fs, &slot, "restart the process of this slot only") },
		run: func(c *call) error {
			query := url.Values{}
			if slot > 0 {
				query.Set("slot", strconv.Itoa(slot))
			}
			status, err := c.client.verb(c.Context(), c.lock, "restart", query)
			if err != nil {
				return err
			}
			for _, w := range status.Workers {
				if w.Process != nil && (slot == 0 || slot == w.Slot) {
					c.say("%s: slot %d: %s", c.lock, w.Slot, restartText(&status, &w))
				}
			}
			return nil
		},
	}.cobra()
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

// verb carries out a verb and prints the lock as it is afterwards.
func (c *call) verb(verb string, query url.Values) (s status.Lock, err error) {
	if s, err = c.client.verb(c.Context(), c.lock, verb, query); err == nil {
		c.say("%s: %s; %d of %s held, %d waiting", c.lock, lockState(&s).text, s.Held, opts.Count(s.Slots, "slot"), s.Waiting)
	}
	return s, err
}

// The flags and parameters that several commands have.

func forFlag(fs *pflag.FlagSet, d *caddy.Duration) {
	durationFlag(fs, d, "for", "resume the lock by itself after this `duration` (default: not by itself)")
}

func durationFlag(fs *pflag.FlagSet, d *caddy.Duration, name, usage string) {
	fs.Func(name, usage, func(s string) error {
		value, err := opts.Duration(s)
		if err == nil && value <= 0 {
			err = fmt.Errorf("found %s, expected a duration of more than 0", s)
		}
		*d = value
		return err
	})
}

func slotFlag(fs *pflag.FlagSet, slot *int, usage string) {
	fs.Func("slot", usage, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("found %q, expected the number of a slot, from 1", s)
		}
		*slot = n
		return nil
	})
}

func optionalQuery(name string, d caddy.Duration) url.Values {
	query := url.Values{}
	if d > 0 {
		query.Set(name, time.Duration(d).String())
	}
	return query
}
