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
	do         func(ctx context.Context, l *lock.Lock, p *parameters) (any, error)
}

var verbs = map[string]verb{
	"pause":   {[]string{"for"}, adminPause},
	"resume":  {nil, adminResume},
	"drain":   {[]string{"for", "wait"}, adminDrain},
	"kick":    {[]string{"id"}, adminKick},
	"run":     {[]string{"moment", "slot", "wait"}, adminRun},
	"restart": {[]string{"slot"}, adminRestart},
}

func (a *API) serve(w http.ResponseWriter, r *http.Request) error {
	name, verb, _ := strings.Cut(strings.Trim(strings.TrimPrefix(r.URL.Path, status.AdminPath), "/"), "/")
	if verb != "" {
		return serveVerb(w, r, name, verb)
	}
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	p, err := parse(r, "waiters")
	if err != nil {
		return err
	}
	most := p.number("waiters", 0, lock.DefaultWaiters)
	if p.err != nil {
		return p.err
	}
	if name == "" {
		return answerListed(w, lock.Listed{Waiters: most, PID: os.Getpid()})
	}
	l, err := findLock(name)
	if err != nil {
		return err
	}
	defer l.Exit()
	return answerListed(w, lock.Listed{Lock: l, Waiters: most, PID: os.Getpid()})
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
	p, err := parse(r, verb.parameters...)
	if err != nil {
		return err
	}
	// net/http notices that the client has gone only after the body has been read. From then on
	// the admin server's read timeout would look the same, and end the request's context.
	_, _ = io.Copy(io.Discard, r.Body)
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	result, err := verb.do(r.Context(), l, p)
	if err != nil {
		return err
	}
	if result == nil {
		return answerListed(w, lock.Listed{Lock: l, Waiters: lock.DefaultWaiters, PID: os.Getpid()})
	}
	return answer(w, result)
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

func adminPause(_ context.Context, l *lock.Lock, p *parameters) (any, error) {
	d := p.duration("for")
	if p.err == nil {
		l.Pause(d)
	}
	return nil, p.err
}

func adminResume(_ context.Context, l *lock.Lock, _ *parameters) (any, error) {
	l.Resume()
	return nil, nil
}

func adminDrain(ctx context.Context, l *lock.Lock, p *parameters) (any, error) {
	d, wait := p.duration("for"), p.duration("wait")
	if p.err != nil {
		return nil, p.err
	}
	ctx, cancel := within(ctx, wait)
	defer cancel()
	return nil, asAPIError(l.Drain(ctx, d))
}

func adminKick(_ context.Context, l *lock.Lock, p *parameters) (any, error) {
	id, err := strconv.ParseUint(p.values.Get("id"), 10, 64)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "id: found %q, expected the id of a holder or waiter", p.values.Get("id"))
	}
	return nil, asAPIError(l.Kick(id))
}

func adminRun(ctx context.Context, l *lock.Lock, p *parameters) (any, error) {
	on, wait := p.values.Get("moment"), p.duration("wait")
	slot := p.slot(l)
	if p.err != nil {
		return nil, p.err
	}
	if moments := l.Moments(); !slices.Contains(moments, on) {
		return nil, apiError(http.StatusBadRequest, "moment: found %q, expected one that lock %s has hooks for: %s",
			on, l.Name(), cmp.Or(strings.Join(moments, ", "), "(there is none)"))
	}
	ctx, cancel := within(ctx, wait)
	defer cancel()
	ran, err := l.RunNow(ctx, on, slot)
	return map[string]int{"hooks": ran, "pid": os.Getpid()}, asAPIError(err)
}

func adminRestart(_ context.Context, l *lock.Lock, p *parameters) (any, error) {
	slot := p.slot(l)
	if p.err == nil && l.Restart(slot) == 0 {
		return nil, apiError(http.StatusBadRequest, "lock %s: found no service, expected one to restart", l.Name())
	}
	return nil, p.err
}

// within returns a copy of ctx that ends after d, if d is more than 0.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d > 0 {
		return context.WithTimeout(ctx, d)
	}
	return context.WithCancel(ctx)
}

// parameters has the query parameters of a request. err is for the first one that is wrong.
type parameters struct {
	values url.Values
	err    error
}

func parse(r *http.Request, known ...string) (*parameters, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "query: %w", err)
	}
	for name, value := range values {
		switch {
		case len(known) == 0:
			return nil, apiError(http.StatusBadRequest, "found parameter %q, expected none", name)
		case !slices.Contains(known, name):
			return nil, apiError(http.StatusBadRequest, "found parameter %q, expected %s", name, strings.Join(known, ", "))
		case len(value) > 1:
			return nil, apiError(http.StatusBadRequest, "%s: found it %d times, expected it once", name, len(value))
		}
	}
	return &parameters{values: values}, nil
}

// duration returns 0 if there is no such parameter.
func (p *parameters) duration(name string) time.Duration {
	if !p.values.Has(name) {
		return 0
	}
	d, err := opts.Duration(p.values.Get(name))
	if err == nil && d <= 0 {
		err = fmt.Errorf("found %q, expected more than 0", p.values.Get(name))
	}
	p.note(name, err)
	return time.Duration(d)
}

func (p *parameters) number(name string, least, otherwise int) int {
	if !p.values.Has(name) {
		return otherwise
	}
	n, err := opts.Number(p.values.Get(name))
	if err == nil && n < least {
		err = fmt.Errorf("found %d, expected %d or more", n, least)
	}
	p.note(name, err)
	return n
}

// slot returns 0 if there is no such parameter.
func (p *parameters) slot(l *lock.Lock) int {
	slot := p.number("slot", 1, 0)
	if p.err == nil && slot > 0 && !l.HasSlot(slot) {
		p.note("slot", fmt.Errorf("found %d, expected one that lock %s has", slot, l.Name()))
	}
	return slot
}

func (p *parameters) note(name string, err error) {
	if err != nil && p.err == nil {
		p.err = apiError(http.StatusBadRequest, "%s: %w", name, err)
	}
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

// asAPIError gives an error of a lock's verb its HTTP status.
func asAPIError(err error) error {
	status := http.StatusInternalServerError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lock.ErrUnknownConnection):
		status = http.StatusNotFound
	case errors.Is(err, lock.ErrResumed):
		status = http.StatusConflict
	case errors.Is(err, lock.ErrHolders):
		status = http.StatusGatewayTimeout
	case errors.Is(err, lock.ErrShutDown):
		status = http.StatusServiceUnavailable
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

func answer(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(value)
}

// answerListed answers with the status of one lock or of all.
func answerListed(w http.ResponseWriter, what lock.Listed) error {
	raw, err := lock.StatusJSON(what)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(raw)
	return err
}

// Interface guards
var _ caddy.AdminRouter = (*API)(nil)
