package cli

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func statusCommand() *cobra.Command {
	var asJSON bool
	return adminCommand{
		use:   "status [<lock>] [--json]",
		short: "Shows the locks of the running Caddy",
		long: `
Shows all locks, a line for each. With a name, it shows the lock's holders, its
line, its workers and its last events.

OLDEST is how long the waiter that came first has been in line. P50 and P99 are
the time in line that 50 and 99 of 100 did not exceed, of the last 256 connections
that got a slot. The other figures count connections that have ended since the
lock exists: served; refused (refused_full, refused_paused, wait_timeout,
hook_failed, shutdown); failed (hold_timeout, service_error); gone (client_gone,
kicked). STATE is open, or

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
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVar(&asJSON, "json", false, "print the JSON of the admin API as it is")
		},
		run: func(c *call) error {
			if asJSON {
				return showJSON(c)
			}
			if c.lock == "" {
				locks, err := c.client.locks(c.Context(), 0)
				if err != nil {
					return err
				}
				return printLines(c.OutOrStdout(), locksLines(locks))
			}
			var status status.Lock
			if err := c.client.get(c.Context(), lockPath(c.lock, ""), nil, &status); err != nil {
				return err
			}
			return printLines(c.OutOrStdout(), lockLines(&status))
		},
	}.cobra()
}

// showJSON prints the answer of the admin API as it is.
func showJSON(c *call) error {
	path := status.AdminPath
	if c.lock != "" {
		path = lockPath(c.lock, "")
	}
	var answer json.RawMessage
	err := c.client.get(c.Context(), path, nil, &answer)
	if err == nil {
		fmt.Fprintf(c.OutOrStdout(), "%s\n", bytes.TrimSpace(answer)) // JSON escapes what cannot be printed
	}
	return err
}

// locksLines returns the table of all locks.
func locksLines(locks []status.Lock) []textLine {
	if len(locks) == 0 {
		return []textLine{{{text: "no locks"}}}
	}
	t := locksTable()
	for i := range locks {
		t.row(lockRow(&locks[i], nil)...)
	}
	return t.lines(0)
}

// listedEvents is how many events status shows. --json has more.
const listedEvents = 10

// lockLines returns one lock with its holders, waiters, workers and events.
func lockLines(s *status.Lock) []textLine {
	lines := locksLines([]status.Lock{*s})
	if why := failingLines(s); why != nil {
		lines = append(append(lines, nil), why...)
	}
	add := func(part section) {
		lines = append(append(lines, nil), part.lines()...)
	}
	add(holderSection(s))
	add(lineSection(s))
	if len(s.Workers) > 0 {
		add(workerSection(s))
	}
	last := *s
	last.Events = s.Events[:min(len(s.Events), listedEvents)]
	add(eventSection(&last))
	return lines
}
