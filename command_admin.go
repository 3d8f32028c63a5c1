package tcplock

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
	exitOutOfTime = 4 // what was waited for did not happen in the time given
	exitResumed   = 5 // somebody resumed the lock that was to drain
	exitTooSlow   = 6 // what was planned does not meet its target
)

// codedError ends the program with an exit code of its own.
type codedError struct {
	code int
	error
}

// adminCommand is a command that asks the admin API of a running Caddy.
type adminCommand struct {
	use, short, long string

	lock  lockArg
	args  []string // what its other arguments are
	flags func(*pflag.FlagSet)
	check func(args []string) error // what is wrong with arguments and flags; may be nil
	run   func(*call) error
}

// lockArg is whether a command is for one lock.
type lockArg int

const (
	lockNone  lockArg = iota
	lockOne           // it is; if there is only one, the name may be left out
	lockOrAll         // for one if that is named, or for all
)

// call is one run of an adminCommand.
type call struct {
	*cobra.Command
	client *adminClient
	lock   string // empty if it is for none, or for all
	args   []string
}

// say tells the user what was done.
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
The address of Caddy's admin API is that of --address, or of the config file, or
Caddy's default.`
	onlyLockHelp = `
If there is only one lock, its name may be left out.`
)

// cobra makes it one of cobra's commands.
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
	fs.StringP("config", "c", "", "config `file` that has the address")
	fs.StringP("adapter", "a", "", "`name` of the config adapter to apply to it")
	cmd.ValidArgsFunction = a.complete
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := a.ask(cmd, args)
		coded, ok := errors.AsType[*codedError](err)
		if !ok {
			return err
		}
		// Only Caddy's wrapper hands on an exit code. It would write the error to
		// Caddy's log, so it is written here.
		cmd.PrintErrln(cmd.ErrPrefix(), coded.Error())
		cmd.SilenceErrors = true
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			return coded.code, nil
		})(cmd, nil)
	}
	return cmd
}

// complete tells the shell the names of the locks.
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

// ask runs the command.
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

// expected says what arguments there may be.
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

// adminClient asks the admin API of a running Caddy. Caddy's own caddycmd.AdminAPIRequest
// would do it without any deadline, and tells the status of an answer only in a sentence.
type adminClient struct {
	address      string // as the user knows it
	url          string // what to put before a path
	header       http.Header
	http         http.Client
	answerWithin time.Duration // how long a request may take that needs no time at Caddy
	answers      answers
	warn         func(text string) // called once if more than one process answers; may be nil
}

// adminClientOf is the client for the Caddy that a command's flags name.
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
		c.url = "http://127.0.0.1" // whom Caddy expects by a socket file, and without an Origin
		addr.Host, _, _ = strings.Cut(addr.Host, "|")
	} else {
		c.header = http.Header{"Origin": {c.url}}
	}
	c.http.Transport = &http.Transport{
		// A connection that is kept leads to one process, and would hide a second one.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.answerWithin)
			defer cancel()
			return new(net.Dialer).DialContext(ctx, addr.Network, addr.JoinHostPort(0))
		},
	}
	return c, nil
}

// lockPath is the path of a lock, or of a verb for it.
func lockPath(lock, verb string) string {
	path := adminPath + "/" + url.PathEscape(lock)
	if verb != "" {
		path += "/" + verb
	}
	return path
}

// get asks for what is at path, within answerWithin.
func (c *adminClient) get(ctx context.Context, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.answerWithin)
	defer cancel()
	return c.do(ctx, http.MethodGet, path, query, into)
}

// verb does something to a lock that takes no time.
func (c *adminClient) verb(ctx context.Context, lock, verb string, query url.Values) (status.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, c.answerWithin)
	defer cancel()
	var status status.Lock
	err := c.do(ctx, http.MethodPost, lockPath(lock, verb), query, &status)
	return status, err
}

// do sends a request and reads the answer's JSON. Its errors are *adminError, or say
// that Caddy cannot be reached.
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
		return fmt.Errorf("what answers at %s is not Caddy's admin API: %w", c.address, err)
	}
	c.noteAnswer(body)
	return nil
}

// noteAnswer warns when more than one process answers. Each answer has the pid.
func (c *adminClient) noteAnswer(body []byte) {
	var from struct {
		PID int `json:"pid"`
	}
	_ = json.Unmarshal(body, &from) // the answer of an older Caddy has none
	c.answers.note(from.PID)
	if text := c.answers.warning(c.address); text != "" && c.warn != nil {
		c.warn(text)
		c.warn = nil
	}
}

// unreachable says plainly why there was no answer.
func (c *adminClient) unreachable(err error) error {
	reason := err
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // names method and URL
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

// adminError is an answer that is an error.
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

// statusOf is the status of an answer that is an error, or 0.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*adminError](err); ok {
		return answer.status
	}
	return 0
}

// locks are all locks, with at most so many waiters each.
func (c *adminClient) locks(ctx context.Context, waiters int) ([]status.Lock, error) {
	var answer struct {
		Locks []status.Lock `json:"locks"`
	}
	err := c.get(ctx, adminPath, url.Values{"waiters": {strconv.Itoa(waiters)}}, &answer)
	if statusOf(err) == http.StatusNotFound {
		return nil, fmt.Errorf("the Caddy at %s knows no tcplock: it is a build without this plugin, or an older one", c.address)
	}
	return answer.Locks, err
}

// lock is the name of the lock that the user means: the one he has named, or the only
// one that there is.
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
