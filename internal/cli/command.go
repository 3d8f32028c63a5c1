package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The exit codes of the commands that talk to a running Caddy, besides 0 and 1. Go and
// Caddy have uses of their own for 2 and 3.
const (
	exitOutOfTime = 4 // the time for the wait is over
	exitResumed   = 5 // the lock did not stay paused until it was drained
	exitTooSlow   = 6 // the planned slots are too few
)

// codedError is an error with an exit code of its own.
type codedError struct {
	code int
	error
}

// command is a command that uses the admin API of a running Caddy.
type command struct {
	use, short, long string

	lock  lockArg
	arg   string            // the name of the other argument as a parameter, or empty
	is    string            // that argument in words for errors
	flags func(*call)       // defines flags; may be nil
	check func(*call) error // checks argument and flags before Caddy is asked; may be nil
	run   func(*call) error // nil: the command is a verb that needs nothing more
}

// lockArg says whether a command takes the name of a lock.
type lockArg int

const (
	lockNone  lockArg = iota
	lockOne           // one lock; if there is only one, the name may be left out
	lockOrAll         // the named lock, or without a name: all, or none (plan)
)

// call is one run of a command.
type call struct {
	*cobra.Command
	client *adminClient
	lock   string     // empty: for no lock, or for all
	query  url.Values // the parameters of the request, from the argument and flags
}

// say prints a line for the user. It replaces what cannot be printed.
func (c *call) say(format string, args ...any) {
	fmt.Fprintln(c.OutOrStdout(), text.Printable(fmt.Sprintf(format, args...)))
}

// verb carries out a verb and prints the lock as it is afterwards.
func (c *call) verb(verb string) (s status.Lock, err error) {
	if err = c.client.ask(c.Context(), c.lock, verb, c.query, &s); err == nil {
		c.say("%s: %s; %d of %s held, %d waiting", c.lock, lockState(&s).text, s.Held, opts.Count(s.Slots, "slot"), s.Waiting)
	}
	return s, err
}

type pollFunc func(context.Context) (status.Lock, error)

// poll returns the lock as it is, without its waiters.
func (c *call) poll(ctx context.Context) (s status.Lock, err error) {
	err = c.client.ask(ctx, c.lock, "", url.Values{"waiters": {"0"}}, &s)
	return s, err
}

const (
	addressUsage = " [--address <address>] [--config <file>]"
	addressHelp  = `
--address is the address of Caddy's admin API. Without it, the address is that of
the config file, or Caddy's default.`
	onlyLockHelp = `
If there is only one lock, its name may be left out.`
)

// cobra returns the command as cobra has it.
func (m command) cobra() *cobra.Command {
	long := strings.TrimSpace(m.long)
	if m.lock == lockOne {
		long += "\n" + onlyLockHelp
	}
	long += "\n" + addressHelp
	cmd := &cobra.Command{Use: m.use + addressUsage, Short: m.short, Long: long, DisableFlagsInUseLine: true}
	c := &call{Command: cmd, query: url.Values{}}
	fs := cmd.Flags()
	fs.SortFlags = false
	if m.flags != nil {
		m.flags(c)
	}
	fs.String("address", "", "`address` of Caddy's admin API")
	fs.StringP("config", "c", "", "config `file` that sets the address")
	fs.StringP("adapter", "a", "", "`name` of the config adapter for that file")
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return m.complete(c, args), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		err := m.ask(c, args)
		coded, ok := errors.AsType[*codedError](err)
		if !ok {
			return err
		}
		// Only Caddy's wrapper sets an exit code. It would write the error to Caddy's log,
		// so print it here.
		cmd.PrintErrln(cmd.ErrPrefix(), coded.Error())
		cmd.SilenceErrors = true
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			return coded.code, nil
		})(cmd, nil)
	}
	return cmd
}

// complete returns the names of the locks, for completion in a shell.
func (m command) complete(c *call, args []string) (names []string) {
	if m.lock == lockNone || len(args) > 0 || c.findCaddy() != nil {
		return nil
	}
	c.client.answerWithin = time.Second
	locks, _ := c.client.locks(c.Context(), 0)
	for _, l := range locks {
		names = append(names, l.Name)
	}
	return names
}

// ask checks the command line, finds Caddy and the lock, and runs the command.
func (m command) ask(c *call, args []string) (err error) {
	expected, others := "nothing but options", 0
	if m.lock != lockNone {
		expected = "a lock"
	}
	if m.arg != "" {
		expected, others = expected+" and "+m.is, 1
	}
	switch surplus := len(args) - others; {
	case surplus == 1 && m.lock != lockNone:
		c.lock, args = args[0], args[1:]
	case surplus != 0:
		return usageError(c.Command, fmt.Errorf("found %s, expected %s", opts.Count(len(args), "argument"), expected))
	}
	if m.arg != "" {
		c.query.Set(m.arg, args[0])
	}
	if m.check != nil {
		if err := m.check(c); err != nil {
			return usageError(c.Command, err)
		}
	}
	if err := c.findCaddy(); err != nil {
		return err
	}
	c.client.warn = func(text string) { c.PrintErrln("Warning:", text) }
	if m.lock == lockOne || c.lock != "" {
		if c.lock, err = c.client.lock(c.Context(), c.lock); err != nil {
			return err
		}
	}
	if m.run == nil {
		_, err = c.verb(c.Name())
		return err
	}
	return m.run(c)
}

// findCaddy makes the client for the Caddy that the flags name.
func (c *call) findCaddy() error {
	fl := caddycmd.Flags{FlagSet: c.Flags()}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err == nil {
		c.client, err = newAdminClient(address)
	}
	return err
}
