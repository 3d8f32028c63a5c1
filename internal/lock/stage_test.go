package lock_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"
	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"go.uber.org/zap"
)

// hookStage is where scripts of hooks are played: a real lock and a real handler, clients
// that come through a net.Pipe, steps that only say what they do, and fake time. What
// clients and steps say is written down and compared with the script.
type hookStage struct {
	t       *testing.T
	lock    *lock.Lock
	handler *tcplock.Handler
	config  *lock.Config // the handler's, in force
	events  *caddyevents.App
	start   time.Time
	ended   sync.WaitGroup // the clients

	mu   sync.Mutex
	said []string
}

// playHooks plays a script in fake time, and makes sure that the lock has no users at its
// end. (synctest makes sure that no goroutine is left.)
func playHooks(t *testing.T, script func(s *hookStage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &hookStage{t: t, start: time.Now()}
		s.handler = new(tcplock.Handler)
		s.lock = lock.EnterLock("stage")
		s.events = new(caddyevents.App)
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		if err := s.events.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		script(s)
		s.ended.Wait()
		synctest.Wait()
		s.lock.Deactivate(s.config)
		s.lock.Exit()
		s.lock.Pool().Stop() // they have been told, and are not waited for
		if n := s.lock.Users(); n > 0 {
			t.Errorf("found %d who use the lock, expected nobody", n)
		}
	})
}

// load activates settings, as a config does that has started.
func (s *hookStage) load(settings lock.Settings, hooks ...*hook.Hook) {
	c := lock.NewConfig(s.lock, "", settings, s.events, zap.NewNop(), hooks...)
	s.use(c)
}

// use makes c current, and the one before it not.
func (s *hookStage) use(c *lock.Config) {
	s.lock.Activate(c)
	if s.config != nil {
		s.lock.Deactivate(s.config)
	}
	s.config = c
	s.handler.Use(c, layer4.HandlerFunc(s.refused))
}

// hook completes a hook: its steps are not from JSON, but their names are.
func (s *hookStage) hook(h hook.Hook, steps ...*fakeStep) *hook.Hook {
	var used []hook.Step
	for _, step := range steps {
		step.s = s
		h.StepsRaw = append(h.StepsRaw, json.RawMessage(fmt.Sprintf(`{"hook":%q}`, step.name)))
		used = append(used, step)
	}
	complete, err := hook.New(h, used...)
	if err != nil {
		s.t.Fatal(err)
	}
	return complete
}

// comes sends a client to the lock. It stays at the service for as long as it is given.
func (s *hookStage) comes(name string, stays time.Duration) {
	ours, theirs := net.Pipe()
	cx := layer4.WrapConnection(namedConn{theirs, name}, nil, zap.NewNop())
	s.ended.Go(func() {
		defer ours.Close()
		defer theirs.Close()
		go func() { _, _ = io.Copy(io.Discard, ours) }()
		_ = s.handler.Handle(cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
			s.say(name + " in")
			_, _ = cx.Write([]byte("x"))
			_ = cx.SetReadDeadline(time.Now().Add(stays))
			if _, err := cx.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				s.say(name + " cut")
			} else {
				s.say(name + " out")
			}
			return nil
		}))
	})
}

// wedges sends a client to the lock for which the service hangs: it does not let go before
// that time is over, even if the client is cut.
func (s *hookStage) wedges(name string, stays time.Duration) {
	ours, theirs := net.Pipe()
	cx := layer4.WrapConnection(namedConn{theirs, name}, nil, zap.NewNop())
	s.ended.Go(func() {
		defer ours.Close()
		_ = s.handler.Handle(cx, layer4.HandlerFunc(func(*layer4.Connection) error {
			s.say(name + " in")
			time.Sleep(stays)
			s.say(name + " out")
			return nil
		}))
	})
}

// refused is the refuse handler.
func (s *hookStage) refused(cx *layer4.Connection) error {
	reason, _ := cx.Replacer().GetString("l4.tcplock.reason")
	s.say(cx.RemoteAddr().String() + " refused: " + reason)
	return nil
}

type namedConn struct {
	net.Conn
	name string
}

func (c namedConn) RemoteAddr() net.Addr { return c }
func (c namedConn) Network() string      { return c.name } // what the lock takes from unknown addresses
func (c namedConn) String() string       { return c.name }

// fakeStep is a step that says for which client it runs.
type fakeStep struct {
	name  string
	takes time.Duration
	fails map[int]error // by number of its run, from 1; nil for all others
	does  func(m hook.Moment)

	s    *hookStage
	runs int
}

var (
	errStep  = errors.New("step has failed")
	errPanic = errors.New("step is to panic")
)

func (f *fakeStep) Run(ctx context.Context, m hook.Moment) error {
	if ctx.Err() != nil { // like the real ones
		return ctx.Err()
	}
	who := strings.TrimSpace(f.name + " " + m.Client)
	f.s.mu.Lock()
	f.runs++
	err := f.fails[f.runs]
	f.s.mu.Unlock()
	if f.does != nil {
		f.does(m)
	}
	if f.takes > 0 {
		f.s.say(who + " begins")
		if !clock.Sleep(ctx, f.takes) {
			f.s.say(who + " ended early")
			return ctx.Err()
		}
		who += " done"
	}
	if err != nil {
		who += " failed"
	}
	f.s.say(who)
	if err == errPanic {
		panic(err)
	}
	return err
}

func (s *hookStage) say(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, fmt.Sprintf("%s %s", time.Since(s.start), what))
}

// until lets time pass until so long after the beginning.
func (s *hookStage) until(d time.Duration) {
	time.Sleep(d - time.Since(s.start))
	synctest.Wait()
}

// expect waits until all clients have ended, compares what was said with the script, and
// forgets it. What stands in one line, with commas between, may come in any order.
func (s *hookStage) expect(script string) {
	s.t.Helper()
	s.ended.Wait()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	said := s.said
	s.said = nil
	for line := range strings.Lines(strings.TrimSpace(script)) {
		at, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		want := strings.Split(rest, ", ")
		for i := range want {
			want[i] = at + " " + want[i]
		}
		got := said[:min(len(want), len(said))]
		if slices.Sort(want); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			s.t.Errorf("found %q, expected %q", said, want)
			return
		}
		said = said[len(want):]
	}
	if len(said) > 0 {
		s.t.Errorf("found %q, expected no more", said)
	}
}
