package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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

// adminCommand is a command that uses the admin API of a running Caddy.
type adminCommand struct {
	use, short, long string

	lock  lockArg
	args  []string // the other arguments, in words for errors
	flags func(*pflag.FlagSet)
	check func(args []string) error // checks arguments and flags before Caddy is asked; may be nil
	run   func(*call) error
}

// lockArg says whether a command takes the name of a lock.
type lockArg int

const (
	lockNone  lockArg = iota
	lockOne           // one lock; if there is only one, the name may be left out
	lockOrAll         // the named lock, or without a name: all, or none (plan)
)

// call is one run of an adminCommand.
type call struct {
	*cobra.Command
	client *adminClient
	lock   string // empty: for no lock, or for all
	args   []string
}

// say prints a line for the user. It replaces what cannot be printed in args.
func (c *call) say(format string, args ...any) {
	for i, arg := range args {
		if words, ok := arg.(string); ok {
			args[i] = text.Printable(words)
		}
	}
	fmt.Fprintf(c.OutOrStdout(), format+"\n", args...)
}

const (
	addressUsage = " [--address <address>] [--config <file>]"
	addressHelp  = `
--address is the address of Caddy's admin API. Without it, the address is that of
the config file, or Caddy's default.`
	onlyLockHelp = `
If there is only one lock, its name may be left out.`
)

// cobra returns a as a cobra command.
func (a adminCommand) cobra() *cobra.Command {
	long := strings.TrimSpace(a.long)
	if a.lock == lockOne {
		long += "\n" + onlyLockHelp
	}
	cmd := &cobra.Command{Use: a.use + addressUsage, Short: a.short, Long: long + "\n" + addressHelp, DisableFlagsInUseLine: true}
	fs := cmd.Flags()
	fs.SortFlags = false
	if a.flags != nil {
		a.flags(fs)
	}
	fs.String("address", "", "`address` of Caddy's admin API")
	fs.StringP("config", "c", "", "config `file` that sets the address")
	fs.StringP("adapter", "a", "", "`name` of the config adapter for that file")
	cmd.ValidArgsFunction = a.complete
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := a.ask(cmd, args)
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
func (a adminCommand) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := adminClientOf(cmd)
	if a.lock == lockNone || len(args) > 0 || err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client.answerWithin = time.Second
	locks, _ := client.locks(cmd.Context(), 0)
	var names []string
	for _, l := range locks {
		names = append(names, l.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// ask checks the command line, finds Caddy and the lock, and runs the command.
func (a adminCommand) ask(cmd *cobra.Command, args []string) (err error) {
	c := &call{Command: cmd, args: args}
	switch surplus := len(args) - len(a.args); {
	case surplus == 1 && a.lock != lockNone:
		c.lock, c.args = args[0], args[1:]
	case surplus != 0:
		return usageError(cmd, fmt.Errorf("found %s, expected %s", opts.Count(len(args), "argument"), a.expected()))
	}
	if a.check != nil {
		if err := a.check(c.args); err != nil {
			return usageError(cmd, err)
		}
	}
	if c.client, err = adminClientOf(cmd); err != nil {
		return err
	}
	c.client.warn = func(text string) { cmd.PrintErrln("Warning:", text) }
	if a.lock == lockOne || c.lock != "" {
		if c.lock, err = c.client.lock(cmd.Context(), c.lock); err != nil {
			return err
		}
	}
	return a.run(c)
}

// expected describes the arguments that the command takes.
func (a adminCommand) expected() string {
	what := slices.Clone(a.args)
	if a.lock != lockNone {
		what = append([]string{"a lock"}, what...)
	}
	if what == nil {
		return "nothing but options"
	}
	return strings.Join(what, " and ")
}

// adminClient is a client for the admin API of a running Caddy. Caddy's own
// caddycmd.AdminAPIRequest has no deadline, and returns an error's status only as part of
// a sentence.
type adminClient struct {
	address      string // as the user has written it
	url          string // goes before a path
	header       http.Header
	http         http.Client
	answerWithin time.Duration // bounds requests that Caddy answers at once
	answers      answers
	warn         func(text string) // called once if more than one process answers; may be nil
}

// adminClientOf returns a client for the Caddy that a command's flags name.
func adminClientOf(cmd *cobra.Command) (*adminClient, error) {
	fl := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, err
	}
	return newAdminClient(address)
}

func newAdminClient(address string) (*adminClient, error) {
	addr, err := caddy.ParseNetworkAddress(address)
	if err == nil && !addr.IsUnixNetwork() {
		_, err = url.Parse("http://" + addr.JoinHostPort(0))
	}
	if err != nil || addr.PortRangeSize() != 1 {
		return nil, fmt.Errorf("found %q, expected the address of Caddy's admin API, such as localhost:2019 or unix//run/caddy/admin.sock", address)
	}
	c := &adminClient{address: address, url: "http://" + addr.JoinHostPort(0), answerWithin: 10 * time.Second}
	if addr.IsUnixNetwork() {
		c.url = "http://127.0.0.1" // on a unix socket, Caddy expects this host and no Origin
		addr.Host, _, _ = strings.Cut(addr.Host, "|")
	} else {
		c.header = http.Header{"Origin": {c.url}}
	}
	c.http.Transport = &http.Transport{
		// A kept connection always reaches the same process, and would hide a second Caddy.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.answerWithin)
			defer cancel()
			return new(net.Dialer).DialContext(ctx, addr.Network, addr.JoinHostPort(0))
		},
	}
	return c, nil
}

// lockPath returns the path of a lock, or of one of its verbs.
func lockPath(lock, verb string) string {
	path := status.AdminPath + "/" + url.PathEscape(lock)
	if verb != "" {
		path += "/" + verb
	}
	return path
}

// get requests path, and waits for the answer no longer than answerWithin.
func (c *adminClient) get(ctx context.Context, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.answerWithin)
	defer cancel()
	return c.do(ctx, http.MethodGet, path, query, into)
}

// verb carries out a verb that Caddy answers at once, and returns the lock as it is afterwards.
func (c *adminClient) verb(ctx context.Context, lock, verb string, query url.Values) (status.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, c.answerWithin)
	defer cancel()
	var status status.Lock
	err := c.do(ctx, http.MethodPost, lockPath(lock, verb), query, &status)
	return status, err
}

// do sends a request and decodes the answer's JSON. Its error is an *adminError, or says
// that Caddy did not answer.
func (c *adminClient) do(ctx context.Context, method, path string, query url.Values, into any) error {
	uri := c.url + path
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, uri, nil)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, c.header)
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK {
		return newAdminError(resp.StatusCode, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("found no JSON at %s, expected Caddy's admin API: %w", c.address, err)
	}
	c.noteAnswer(body)
	return nil
}

// noteAnswer warns if more than one process answers. It knows them by the pid in each answer.
func (c *adminClient) noteAnswer(body []byte) {
	var from struct {
		PID int `json:"pid"`
	}
	_ = json.Unmarshal(body, &from) // an older version answers without a pid
	c.answers.note(from.PID)
	if text := c.answers.warning(c.address); text != "" && c.warn != nil {
		c.warn(text)
		c.warn = nil
	}
}

// unreachable returns an error that says why there was no answer.
func (c *adminClient) unreachable(err error) error {
	reason := err
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // it repeats method and URL
		reason = wrapped.Err
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("found no Caddy at %s: it is not running, or its admin API is off or elsewhere (see --address and --config)", c.address)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("found no answer from Caddy at %s within %s", c.address, c.answerWithin)
	}
	return fmt.Errorf("found no answer from Caddy at %s: %w", c.address, reason)
}

// adminError is an answer of the admin API with an error status.
type adminError struct {
	status  int
	message string
}

func newAdminError(status int, body []byte) *adminError {
	var answer struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Error == "" {
		answer.Error = strings.TrimSpace(string(body))
	}
	return &adminError{status: status, message: text.Printable(answer.Error)}
}

func (e *adminError) Error() string {
	return fmt.Sprintf("Caddy answered %d: %s", e.status, e.message)
}

// statusOf returns the status of an adminError, and 0 for any other error.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*adminError](err); ok {
		return answer.status
	}
	return 0
}

// locks returns all locks, with at most so many waiters each.
func (c *adminClient) locks(ctx context.Context, waiters int) ([]status.Lock, error) {
	var answer struct {
		Locks []status.Lock `json:"locks"`
	}
	err := c.get(ctx, status.AdminPath, url.Values{"waiters": {strconv.Itoa(waiters)}}, &answer)
	if statusOf(err) == http.StatusNotFound {
		return nil, fmt.Errorf("found no tcplock in the Caddy at %s: it was built without this plugin, or with an old version", c.address)
	}
	return answer.Locks, err
}

// lock returns the name of the lock that the user means: the named one if it exists, or
// without a name the only lock.
func (c *adminClient) lock(ctx context.Context, named string) (string, error) {
	locks, err := c.locks(ctx, 0)
	if err != nil {
		return "", err
	}
	var names []string
	for _, l := range locks {
		if l.Name == named {
			return named, nil
		}
		names = append(names, l.Name)
	}
	switch {
	case len(names) == 0:
		return "", fmt.Errorf("found no lock in the config of the Caddy at %s, expected at least one", c.address)
	case named != "":
		return "", fmt.Errorf("found no lock %q, expected one of: %s", named, strings.Join(names, ", "))
	case len(names) > 1:
		return "", fmt.Errorf("found no name of a lock, expected one of: %s", strings.Join(names, ", "))
	}
	return names[0], nil
}
