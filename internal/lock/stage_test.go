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

// hookStage plays scripts of hooks. It has a real lock, a real handler and fake time. Clients come
// through a net.Pipe, and steps only say what they do. The stage records what clients and steps
// say, and compares that with the script.
type hookStage struct {
	t       *testing.T
	lock    *lock.Lock
	handler *tcplock.Handler
	config  *lock.Config // the handler's, in force
	events  *caddyevents.App
	start   time.Time
	ended   sync.WaitGroup // done when the clients have ended

	mu   sync.Mutex
	said []string
}

// playHooks plays a script in fake time, and checks that the lock has no users at its end.
// (synctest checks that no goroutine is left.)
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
		s.lock.Pool().Stop() // waits for the processes
		if n := s.lock.Users(); n > 0 {
			t.Errorf("found %d users of the lock, expected none", n)
		}
	})
}

// load activates settings, as a config does when it has started.
func (s *hookStage) load(settings lock.Settings, hooks ...*hook.Hook) {
	c := lock.NewConfig(s.lock, "", settings, s.events, zap.NewNop(), hooks...)
	s.use(c)
}

// use makes c current, and deactivates the config before it.
func (s *hookStage) use(c *lock.Config) {
	s.lock.Activate(c)
	if s.config != nil {
		s.lock.Deactivate(s.config)
	}
	s.config = c
	s.handler.Use(c, layer4.HandlerFunc(s.refused))
}

// hook returns h with these steps. The names of the steps are in its JSON.
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

// comes sends a client to the lock. It stays at the service for this time.
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

// wedges sends a client to the lock. The service hangs for this time: it does not let go of the
// client, even if the client is cut.
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
func (c namedConn) Network() string      { return c.name } // the lock shows this for an address that is not IP
func (c namedConn) String() string       { return c.name }

// fakeStep is a step that says which client it runs for.
type fakeStep struct {
	name  string
	takes time.Duration
	fails map[int]error // the runs that fail, from 1
	does  func(m hook.Moment)

	s    *hookStage
	runs int
}

var (
	errStep  = errors.New("step has failed")
	errPanic = errors.New("step is to panic")
)

func (f *fakeStep) Run(ctx context.Context, m hook.Moment) error {
	if ctx.Err() != nil { // as real steps do
		return ctx.Err()
	}
	says := strings.TrimSpace(f.name + " " + m.Client)
	f.s.mu.Lock()
	f.runs++
	err := f.fails[f.runs]
	f.s.mu.Unlock()
	if f.does != nil {
		f.does(m)
	}
	if f.takes > 0 {
		f.s.say(says + " begins")
		if !clock.Sleep(ctx, f.takes) {
			f.s.say(says + " ended early")
			return ctx.Err()
		}
		says += " done"
	}
	if err != nil {
		says += " failed"
	}
	f.s.say(says)
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

// until waits until this long after the start.
func (s *hookStage) until(d time.Duration) {
	time.Sleep(d - time.Since(s.start))
	synctest.Wait()
}

// expect waits until all clients have ended, compares what was said with the script, and forgets
// it. Entries in one line, separated by commas, may come in any order.
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
