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

	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// adminClient is a client for the admin API of a running Caddy, for one goroutine. Caddy's own
// caddycmd.AdminAPIRequest has no deadline, and returns an error's status only as part of
// a sentence.
type adminClient struct {
	address      string // as the user has written it
	url          string // goes before a path
	header       http.Header
	http         http.Client
	answerWithin time.Duration     // bounds requests that Caddy answers at once
	pids         []int             // see warning; the newest last
	warn         func(text string) // called once if more than one process answers; may be nil
}

func newAdminClient(address string) (*adminClient, error) {
	addr, err := caddy.ParseNetworkAddress(address)
	if err == nil && !addr.IsUnixNetwork() {
		_, err = url.Parse("http://" + addr.JoinHostPort(0))
	}
	if err != nil || addr.PortRangeSize() != 1 {
		return nil, fmt.Errorf("found %q, expected the address of Caddy's admin API, "+
			"such as localhost:2019 or unix//run/caddy/admin.sock", address)
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
			return (&net.Dialer{Timeout: c.answerWithin}).DialContext(ctx, addr.Network, addr.JoinHostPort(0))
		},
	}
	return c, nil
}

// ask sends a verb for a lock, or without one asks how the lock is, or without a lock how all are. It
// decodes the answer's JSON. The error is an *adminError, or says that Caddy did not answer.
func (c *adminClient) ask(ctx context.Context, lock, verb string, query url.Values, into any) error {
	if verb != "run" { // hooks may take long, and Caddy bounds them
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.answerWithin)
		defer cancel()
	}
	method, uri := http.MethodGet, c.url+status.AdminPath
	if lock != "" {
		uri += "/" + url.PathEscape(lock)
	}
	if verb != "" {
		method, uri = http.MethodPost, uri+"/"+verb
	}
	req, err := http.NewRequestWithContext(ctx, method, uri, nil)
	if err != nil {
		return err
	}
	req.URL.RawQuery = query.Encode()
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
	var other struct { // what an answer may have besides what the caller wants
		PID   int    `json:"pid"` // absent in an older version
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &other)
	if resp.StatusCode != http.StatusOK {
		if other.Error == "" {
			other.Error = strings.TrimSpace(string(body))
		}
		return &adminError{resp.StatusCode, text.Printable(other.Error)}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("found no JSON at %s, expected Caddy's admin API: %w", c.address, err)
	}
	c.noteAnswer(other.PID)
	return nil
}

// recentAnswers is how many of the last answers count. After a restart of Caddy two processes
// have answered too. The warning ends when the new one has answered so many times.
const recentAnswers = 10

// noteAnswer warns if more than one process answers. It ignores the pid 0 of an older version.
func (c *adminClient) noteAnswer(pid int) {
	if pid != 0 {
		c.pids = append(c.pids, pid)
		c.pids = c.pids[max(0, len(c.pids)-recentAnswers):]
	}
	if text := c.warning(); text != "" && c.warn != nil {
		c.warn(text)
		c.warn = nil
	}
}

// warning says that more than one process has answered. It is empty if only one has. Caddy's admin
// listener has SO_REUSEPORT, so a second Caddy can listen on the same address. The system then
// spreads the connections over both, and each knows its own locks only.
func (c *adminClient) warning() string {
	var pids []string
	for _, pid := range c.pids {
		if text := strconv.Itoa(pid); !slices.Contains(pids, text) {
			pids = append(pids, text)
		}
	}
	if len(pids) < 2 {
		return ""
	}
	return fmt.Sprintf("two Caddys answer at %s (pid %s): either Caddy was restarted just now, or both run, "+
		"and a command reaches one or the other; end one of them, or give each an admin address of its own",
		c.address, strings.Join(pids, " and "))
}

// unreachable returns an error that says why there was no answer.
func (c *adminClient) unreachable(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("found no Caddy at %s: it is not running, or its admin API is off or elsewhere "+
			"(see --address and --config)", c.address)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("found no answer from Caddy at %s within %s", c.address, c.answerWithin)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // it repeats method and URL
		err = wrapped.Err
	}
	return fmt.Errorf("found no answer from Caddy at %s: %w", c.address, err)
}

// adminError is an answer of the admin API with an error status.
type adminError struct {
	status  int
	message string
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
	err := c.ask(ctx, "", "", url.Values{"waiters": {strconv.Itoa(waiters)}}, &answer)
	if statusOf(err) == http.StatusNotFound {
		return nil, fmt.Errorf("found no tcplock in the Caddy at %s: it was built without this plugin, "+
			"or with an old version", c.address)
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
		names = append(names, l.Name)
	}
	switch {
	case slices.Contains(names, named):
		return named, nil
	case len(names) == 0:
		return "", fmt.Errorf("found no lock in the config of the Caddy at %s, expected at least one", c.address)
	case named != "":
		return "", fmt.Errorf("found no lock %q, expected one of: %s", named, strings.Join(names, ", "))
	case len(names) > 1:
		return "", fmt.Errorf("found no name of a lock, expected one of: %s", strings.Join(names, ", "))
	}
	return names[0], nil
}
