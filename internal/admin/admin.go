// Package admin adds the locks to Caddy's admin API.
package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func init() {
	caddy.RegisterModule(new(API))
}

// API adds the locks to Caddy's admin API: it shows them, and lets an operator pause,
// resume and drain them, kick connections, run hooks and restart services. It is on Caddy's
// admin listener and nowhere else, and has nothing to configure. docs/admin.md explains it.
type API struct{}

// CaddyModule returns the Caddy module information.
func (*API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.tcplock",
		New: func() caddy.Module { return new(API) },
	}
}

// Routes implements caddy.AdminRouter.
func (a *API) Routes() []caddy.AdminRoute {
	handler := caddy.AdminHandlerFunc(a.serve)
	return []caddy.AdminRoute{{Pattern: status.AdminPath, Handler: handler}, {Pattern: status.AdminPath + "/", Handler: handler}}
}

// verb is an action on a lock. do returns the answer; nil stands for the lock's status.
type verb struct {
	parameters []string // it takes these, and no others
	do         func(ctx context.Context, l *lock.Lock, p parameters) (any, error)
}

var verbs = map[string]verb{
	"pause": {[]string{"for"}, func(_ context.Context, l *lock.Lock, p parameters) (any, error) {
		l.Pause(p.pause)
		return nil, nil
	}},
	"resume": {nil, func(_ context.Context, l *lock.Lock, _ parameters) (any, error) {
		l.Resume()
		return nil, nil
	}},
	"drain": {[]string{"for", "wait"}, func(ctx context.Context, l *lock.Lock, p parameters) (any, error) {
		return nil, l.Drain(ctx, p.pause)
	}},
	"kick":    {[]string{"id"}, kick},
	"run":     {[]string{"moment", "slot", "wait"}, run},
	"restart": {[]string{"slot"}, restart},
}

func (a *API) serve(w http.ResponseWriter, r *http.Request) error {
	name, verb, _ := strings.Cut(strings.Trim(strings.TrimPrefix(r.URL.Path, status.AdminPath), "/"), "/")
	if verb != "" {
		return serveVerb(w, r, name, verb)
	}
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	p, err := parse(r, nil, "waiters")
	if err != nil {
		return err
	}
	if name == "" {
		return answerListed(w, nil, p.waiters)
	}
	l, err := findLock(name)
	if err != nil {
		return err
	}
	defer l.Exit()
	return answerListed(w, l, p.waiters)
}

func serveVerb(w http.ResponseWriter, r *http.Request, name, word string) error {
	l, err := findLock(name)
	if err != nil {
		return err
	}
	defer l.Exit()
	verb, ok := verbs[word]
	if !ok {
		return apiError(http.StatusNotFound, "found %q, expected one of %s", word, strings.Join(slices.Sorted(maps.Keys(verbs)), ", "))
	}
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	p, err := parse(r, l, verb.parameters...)
	if err != nil {
		return err
	}
	// net/http notices that the client has gone only after the body has been read. From then on
	// the admin server's read timeout would look the same, and end the request's context.
	_, _ = io.Copy(io.Discard, r.Body)
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(r.Context(), p.wait)
	defer cancel()
	result, err := verb.do(ctx, l, p)
	for known, status := range statuses {
		if errors.Is(err, known) {
			return caddy.APIError{HTTPStatus: status, Err: err}
		}
	}
	switch {
	case err != nil:
		return err
	case result == nil:
		return answerListed(w, l, lock.DefaultWaiters)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(result)
}

// findLock returns the lock of that name. It enters the lock, so the caller must exit it.
func findLock(name string) (*lock.Lock, error) {
	var names []string
	for _, l := range lock.InForce() {
		if l.Name() == name && l.Enter() {
			return l, nil
		}
		names = append(names, l.Name())
	}
	return nil, apiError(http.StatusNotFound, "found no lock %q, expected one of: %s", name, cmp.Or(strings.Join(names, ", "), "(there is none)"))
}

func kick(_ context.Context, l *lock.Lock, p parameters) (any, error) {
	id, err := strconv.ParseUint(p.id, 10, 64)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "id: found %q, expected the id of a holder or waiter", p.id)
	}
	return nil, l.Kick(id)
}

func run(ctx context.Context, l *lock.Lock, p parameters) (any, error) {
	if moments := l.Moments(); !slices.Contains(moments, p.moment) {
		return nil, apiError(http.StatusBadRequest, "moment: found %q, expected one that lock %s has hooks for: %s",
			p.moment, l.Name(), cmp.Or(strings.Join(moments, ", "), "(there is none)"))
	}
	ran, err := l.RunNow(ctx, p.moment, p.slot)
	return map[string]int{"hooks": ran, "pid": os.Getpid()}, err
}

func restart(_ context.Context, l *lock.Lock, p parameters) (any, error) {
	if l.Restart(p.slot) == 0 {
		return nil, apiError(http.StatusBadRequest, "lock %s: found no service, expected one to restart", l.Name())
	}
	return nil, nil
}

// parameters are the query parameters of a request.
type parameters struct {
	id, moment  string
	pause, wait time.Duration // without "for", pause is 0; without "wait", wait is without end
	waiters     int
	slot        int // 0: all
}

// parse reads the known parameters of a request for l.
func parse(r *http.Request, l *lock.Lock, known ...string) (p parameters, err error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return p, apiError(http.StatusBadRequest, "query: %w", err)
	}
	for name, value := range values {
		switch {
		case len(known) == 0:
			return p, apiError(http.StatusBadRequest, "found parameter %q, expected none", name)
		case !slices.Contains(known, name):
			return p, apiError(http.StatusBadRequest, "found parameter %q, expected %s", name, strings.Join(known, ", "))
		case len(value) > 1:
			return p, apiError(http.StatusBadRequest, "%s: found it %d times, expected it once", name, len(value))
		}
	}
	p.id, p.moment = values.Get("id"), values.Get("moment")
	p.wait, p.waiters = math.MaxInt64, lock.DefaultWaiters
	for _, name := range known {
		value := values.Get(name)
		switch {
		case !values.Has(name):
		case name == "for":
			p.pause, err = duration(value)
		case name == "wait":
			p.wait, err = duration(value)
		case name == "waiters":
			p.waiters, err = number(value, 0)
		case name == "slot":
			if p.slot, err = number(value, 1); err == nil && !l.HasSlot(p.slot) {
				err = fmt.Errorf("found %d, expected one that lock %s has", p.slot, l.Name())
			}
		}
		if err != nil {
			return p, apiError(http.StatusBadRequest, "%s: %w", name, err)
		}
	}
	return p, nil
}

func duration(s string) (time.Duration, error) {
	d, err := opts.Duration(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("found %q, expected more than 0", s)
	}
	return time.Duration(d), err
}

func number(s string, least int) (int, error) {
	n, err := opts.Number(s)
	if err == nil && n < least {
		err = fmt.Errorf("found %d, expected %d or more", n, least)
	}
	return n, err
}

// allow refuses all methods but these.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return apiError(http.StatusMethodNotAllowed, "found method %s, expected %s", r.Method, methods[0])
}

func apiError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// statuses are the HTTP statuses of the errors of a lock's verbs.
var statuses = map[error]int{
	lock.ErrUnknownConnection: http.StatusNotFound,
	lock.ErrResumed:           http.StatusConflict,
	lock.ErrHolders:           http.StatusGatewayTimeout,
	lock.ErrShutDown:          http.StatusServiceUnavailable,
}

// answerListed answers with the status of l, or of all locks if it is nil.
func answerListed(w http.ResponseWriter, l *lock.Lock, waiters int) error {
	raw, err := lock.StatusJSON(lock.Listed{Lock: l, Waiters: waiters, PID: os.Getpid()})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(raw)
	return err
}

// Interface guards
var _ caddy.AdminRouter = (*API)(nil)
