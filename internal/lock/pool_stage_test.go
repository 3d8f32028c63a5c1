package lock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/client"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"go.uber.org/zap"
)

// poolStage is a hookStage with workers behind the lock. If the settings have a service, the
// workers have processes. It checks that no two processes are ever in one slot or at one address,
// that no process is asked to end while it has a client, and that no process has two clients.
type poolStage struct {
	*hookStage

	// The stage's mutex guards all below.
	processes []*actor
	down      map[string]bool // addresses that refuse connections
	loaded    time.Time       // when the last settings were activated

	// How the next process behaves.
	readyAfter, endsAfter time.Duration
	deaf                  bool  // it is ready, but refuses connections
	readyErr              error // its start fails
}

// playPool plays a script, as playHooks does, and checks that no process is left.
func playPool(t *testing.T, script func(s *poolStage)) {
	t.Helper()
	var s *poolStage
	playHooks(t, func(h *hookStage) {
		s = &poolStage{hookStage: h, down: make(map[string]bool), readyAfter: time.Second, endsAfter: time.Second}
		h.lock.Pool().Start = s.launch
		script(s)
	})
	if n := s.alive(""); n > 0 || len(s.lock.Pool().Processes) > 0 {
		t.Errorf("found %d processes, and %d the lock knows, expected none", n, len(s.lock.Pool().Processes))
	}
	// Real processes of an earlier test may still be there.
	for _, claim := range lock.Exits.Claims() {
		if claim.Lock == s.lock.Name() {
			t.Errorf("found a process at %+v that others would wait for, expected none", claim)
		}
	}
}

// actor is a process of the stage.
type actor struct {
	s      *poolStage
	id     service.ID
	number int
	over   chan struct{}

	status  error
	listens bool
	asked   bool // to end
	ended   bool
	guest   string // its client
	readyIn time.Duration
	endsIn  time.Duration
	deaf    bool
	fails   error // its start
}

func (s *poolStage) launch(_ *service.Service, id service.ID, _ func() *zap.Logger) (service.Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.processes {
		if other.ended {
			continue
		}
		if other.id.Slot == id.Slot || id.Worker != "" && other.id.Worker == id.Worker {
			s.t.Errorf("at %s: process of slot %d at %q started beside that of slot %d at %q",
				time.Since(s.start), id.Slot, id.Worker, other.id.Slot, other.id.Worker)
		}
	}
	a := &actor{s: s, id: id, number: len(s.processes) + 1, over: make(chan struct{}),
		readyIn: s.readyAfter, endsIn: s.endsAfter, deaf: s.deaf, fails: s.readyErr}
	s.processes = append(s.processes, a)
	return a, nil
}

func (a *actor) PID() int                { return a.number }
func (a *actor) Exited() <-chan struct{} { return a.over }
func (a *actor) Cause() error            { return a.status }
func (a *actor) Memory() (uint64, error) { return 0, nil }
func (a *actor) Release()                {}
func (a *actor) Kill()                   { a.exit(errors.New("killed")) }

func (a *actor) Ready(ctx context.Context) error {
	timer := time.NewTimer(a.readyIn)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-a.over:
		return errors.New("it has ended before it was ready")
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.listens = a.fails == nil
	return a.fails
}

func (a *actor) Terminate() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if a.asked || a.ended {
		return
	}
	guest, at := a.guest, time.Since(a.s.start)
	time.AfterFunc(1, func() { // a client that has just been cut is gone by then
		a.s.mu.Lock()
		defer a.s.mu.Unlock()
		if guest != "" && guest == a.guest {
			a.s.t.Errorf("at %s: process of slot %d asked to end under client %s", at, a.id.Slot, guest)
		}
	})
	a.asked, a.listens = true, false
	time.AfterFunc(a.endsIn, func() { a.exit(nil) })
}

// exit ends the process and its connections.
func (a *actor) exit(status error) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if !a.ended {
		a.status, a.listens, a.ended = status, false, true
		close(a.over)
	}
}

// load activates settings.
func (s *poolStage) load(settings lock.Settings, hooks ...*hook.Hook) {
	s.let(func() { s.loaded = time.Now() })
	s.hookStage.load(settings, hooks...)
}

// alive counts the processes at an address, or all of them.
func (s *poolStage) alive(worker string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.processes {
		if !a.ended && (worker == "" || a.id.Worker == worker) {
			n++
		}
	}
	return n
}

// last returns the newest process.
func (s *poolStage) last() *actor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[len(s.processes)-1]
}

func (s *poolStage) let(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// guest is a client of the stage.
type guest struct {
	name     string
	ip       string // empty: its address is not IP
	priority int
	stays    time.Duration
	tail     time.Duration // how long it stays after the process has ended
	wedges   bool          // the service does not let go when the client is cut
	fails    error         // what the proxy returns
	dials    time.Duration // how long the proxy dials, successfully or not
	silent   bool          // the service sends nothing, so the lock learns only at the end that it was reached
}

// addrConn is a connection with a remote address.
type addrConn struct {
	net.Conn
	addr net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.addr }

// comes sends a client to the lock.
func (s *poolStage) comes(c guest) {
	ours, theirs := net.Pipe()
	var from net.Addr = namedConn{name: c.name}
	if c.ip != "" {
		from = &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 1}
	}
	cx := layer4.WrapConnection(addrConn{theirs, from}, nil, zap.NewNop())
	handler := *s.handler // that of the current config
	handler.Priority = c.priority
	cut := make(chan struct{})
	s.ended.Go(func() {
		defer close(cut)
		for buf := make([]byte, 1); ; {
			if _, err := ours.Read(buf); err != nil {
				return
			}
		}
	})
	s.ended.Go(func() {
		defer theirs.Close()
		_ = handler.Handle(cx, layer4.HandlerFunc(func(cx *layer4.Connection) error { return s.serve(cx, c, cut) }))
	})
}

// serve acts as the proxy and the service.
func (s *poolStage) serve(cx *layer4.Connection, c guest, cut <-chan struct{}) error {
	slot, _ := cx.Replacer().GetString("l4.tcplock.slot")
	worker, _ := cx.Replacer().GetString("l4.tcplock.worker")
	at := strings.TrimSpace(slot + " " + worker)
	time.Sleep(c.dials)
	over, err := s.connect(slot, worker, c, lock.Hooked(cx))
	if err != nil {
		s.say(c.name + " not at " + at)
		return &net.OpError{Op: "dial", Err: err}
	}
	s.say(c.name + " at " + at)
	if !c.silent {
		if _, err := cx.Write([]byte("x")); err != nil {
			return err
		}
	}
	select {
	case <-time.After(c.stays):
	case <-over:
		time.Sleep(c.tail)
	case <-cut:
		s.leave(c)
		if c.wedges {
			<-over
		}
	}
	s.leave(c)
	_ = cx.Conn.(*client.Conn).CloseWrite()
	return c.fails
}

// connect returns a channel that is closed when the process ends.
func (s *poolStage) connect(slot, worker string, c guest, hooked bool) (over <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.processes {
		if a.ended || fmt.Sprint(a.id.Slot) != slot || a.id.Worker != worker {
			continue
		}
		switch {
		case a.asked && !hooked && s.loaded.Before(time.Now()):
			// A process may have crashed during a hook. A reload may come after the slot was
			// granted.
			s.t.Errorf("at %s: client %s was sent to slot %s, whose process is ending", time.Since(s.start), c.name, slot)
			return nil, errors.New("connection refused")
		case !a.listens || a.deaf:
			return nil, errors.New("connection refused")
		case a.guest != "":
			s.t.Errorf("at %s: client %s has come to %q beside %s", time.Since(s.start), c.name, worker, a.guest)
		}
		a.guest = c.name
		return a.over, nil
	}
	if s.service() || s.down[worker] {
		return nil, errors.New("connection refused")
	}
	return nil, nil
}

func (s *poolStage) service() bool { return s.lock.Settings().Service != nil }

func (s *poolStage) leave(c guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.processes {
		if a.guest == c.name {
			a.guest = ""
		}
	}
}
