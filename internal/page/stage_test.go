package page

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/place"
)

// stage has a lock in fake time. Connections come to it as the handler lets them: they join, wait,
// are served for a time, and end.
type stage struct {
	t      *testing.T
	start  time.Time
	lock   *lock.Lock
	config *lock.Config
	leave  func() // ends config
	coming sync.WaitGroup

	mu      sync.Mutex
	clients map[string]net.Conn
}

// play runs a script with a stage, and waits for the end of its connections.
func play(t *testing.T, script func(s *stage)) {
	t.Helper()
	config(t) // outside of the bubble, in which its goroutines would never end
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, start: time.Now(), clients: make(map[string]net.Conn)}
		script(s)
		s.coming.Wait()
		s.leave()
	})
}

// watched plays a script with a hub that polls the stage's lock.
func watched(t *testing.T, script func(s *stage, h *hub)) {
	t.Helper()
	play(t, func(s *stage) {
		s.load(lock.Settings{MaxWaiting: new(1)})
		h := newHub()
		defer func() { _ = h.Destruct() }()
		script(s, h)
	})
}

var caddyContext caddy.Context

// config returns the context of a Caddy config.
func config(t testing.TB) caddy.Context {
	t.Helper()
	if caddyContext.Context == nil {
		var err error
		if caddyContext, err = caddy.ProvisionContext(new(caddy.Config)); err != nil {
			t.Fatal(err)
		}
	}
	return caddyContext
}

// newLock returns the lock of a config with these settings. A lock is renamed if only its listen
// address stays the same.
func newLock(t testing.TB, listen, name string, settings lock.Settings) (l *lock.Lock, c *lock.Config, leave func()) {
	t.Helper()
	configs := lock.NewConfigs(&place.Layout{Listen: map[string][]string{listen: {name}}})
	c, err := configs.Define(config(t), name, settings, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	configs.Activate(zap.NewNop())
	for _, l = range lock.InForce() {
		if l.Name() == name {
			return l, c, configs.Deactivate
		}
	}
	t.Fatalf("found no lock %s", name)
	return nil, nil, nil
}

// otherLock returns a lock beside the stage's.
func otherLock(t testing.TB, name string) (c *lock.Config, leave func()) {
	t.Helper()
	_, c, leave = newLock(t, "other:"+name, name, lock.Settings{})
	return c, leave
}

func (s *stage) load(settings lock.Settings) { s.rename("stage", settings) }

// rename loads settings for the lock with another name: its listen address stays the same.
func (s *stage) rename(name string, settings lock.Settings) {
	s.t.Helper()
	before := s.leave
	s.lock, s.config, s.leave = newLock(s.t, "stage", name, settings)
	if before != nil {
		before()
	}
}

// comes sends a client to the lock. If it is let through, it stays for so long.
func (s *stage) comes(name string, stays time.Duration) {
	theirs, ours := net.Pipe()
	s.mu.Lock()
	s.clients[name] = theirs
	s.mu.Unlock()
	s.coming.Go(func() {
		defer ours.Close()
		defer theirs.Close()
		cx := layer4.WrapConnection(named{ours, name}, nil, zap.NewNop())
		w, holder := join(s.config, cx)
		defer w.Leave()
		if holder == nil {
			return
		}
		cx = w.Wrap(cx)
		if outcome := holder.Activate(); outcome != "" {
			s.t.Errorf("found %s, expected the connection to be served", outcome)
			return
		}
		_, _ = holder.Serve(cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
			_ = cx.SetReadDeadline(time.Now().Add(stays))
			for buf := make([]byte, 1); ; {
				if _, err := cx.Read(buf); err != nil {
					return nil
				}
			}
		}))
	})
}

// sends has a client send a byte.
func (s *stage) sends(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.clients[name].Write([]byte("x")); err != nil {
		s.t.Error(err)
	}
	synctest.Wait()
}

// join sends a connection to a lock, and waits until it has a slot or is refused.
func join(c *lock.Config, cx *layer4.Connection) (w *lock.Waiter, h *lock.Holder) {
	w = c.Enter(cx)
	outcome := w.Join(0)
	for h == nil && outcome == "" {
		if h, outcome = w.Poll(); h == nil && outcome == "" {
			outcome = w.GiveUp(w.Park())
		}
	}
	if outcome != "" {
		_ = w.Refuse(outcome, nil)
	}
	return w, h
}

// gather has n connections join a lock. They take no goroutine and no socket.
func gather(c *lock.Config, n int) (leave func()) {
	var all []*lock.Waiter
	for i := range n {
		w := c.Enter(layer4.WrapConnection(named{new(net.TCPConn), fmt.Sprintf("192.0.2.1:%d", i)}, nil, zap.NewNop()))
		_ = w.Join(0)
		all = append(all, w)
	}
	return func() {
		for _, w := range all {
			_ = w.Abort(nil)
			w.Leave()
		}
	}
}

// named is a connection from an address.
type named struct {
	net.Conn
	address string
}

func (c named) RemoteAddr() net.Addr { return c }
func (c named) Network() string      { return c.address } // what the lock takes from unknown addresses
func (c named) String() string       { return c.address }

func (s *stage) until(d time.Duration) {
	time.Sleep(d - time.Since(s.start))
	synctest.Wait()
}
