package relay_test

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

const (
	patience = 10 * time.Second
	inTime   = 3 * time.Second // for a machine that is busy with other things
)

// stage plays schedules over one door, one after the other.
type stage struct {
	door
	t        testing.TB
	listener net.Listener
	came     chan *net.TCPConn
	clients  int // so far
}

// ways are the ways through a lock and out of it. A handler before a lock has its connections not detach.
var ways = []struct{ name, before, out string }{{"to", "", "to"}, {"kept", "test_pass\n", "to"}, {"proxy", "", "proxy"}}

// passer is test_pass, a handler that does nothing.
type passer struct{}

func init() { caddy.RegisterModule(passer{}) }

func (passer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_pass", New: func() caddy.Module { return new(passer) }}
}

func (passer) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (passer) Handle(cx *layer4.Connection, next layer4.Handler) error { return next.Handle(cx) }

// doors are the locks over which schedules are played.
func doors() (all []door) {
	for _, way := range ways {
		for _, d := range []door{{linger: 0}, {linger: 30 * time.Millisecond}, {linger: long}, {linger: 0, drop: true}} {
			d.way, d.before = way.out, way.before
			d.name = fmt.Sprintf("%s-%s-%t", way.name, d.linger, d.drop)
			all = append(all, d)
		}
	}
	return all
}

// open starts Caddy with one lock for each door.
func open(t testing.TB) (stages []*stage) {
	t.Helper()
	servers := ""
	for _, d := range doors() {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		d.address = caddytest.FreeAddr(t)
		st := &stage{door: d, t: t, listener: ln, came: make(chan *net.TCPConn, 10)}
		stages = append(stages, st)
		options, after := "", "proxy "+ln.Addr().String()
		if d.way == "to" {
			options, after = "to "+ln.Addr().String(), ""
		}
		if d.drop {
			options += "\nhalf_closed drop"
		}
		servers += fmt.Sprintf("%s {\nroute {\n%stcplock {\nname %s\nlinger %s\n%s\n}\n%s\n}\n}\n", d.address, d.before, d.name, d.linger, options, after)
		go func() {
			defer close(st.came)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				st.came <- conn.(*net.TCPConn)
			}
		}()
		t.Cleanup(func() { ln.Close() })
	}
	caddytest.Load(t, caddytest.Global("layer4 {\n"+servers+"}"))
	return stages
}

// play plays a schedule, and checks what comes of it.
func (st *stage) play(s *schedule) (ok bool) {
	st.t.Helper()
	p := &performance{stage: st, schedule: s, job: newStream(2 * st.clients), reply: newStream(2*st.clients + 1)}
	err := p.run()
	if err == nil {
		err = p.judge()
	}
	if err != nil {
		st.t.Errorf("lock %s: %v\n%s\njob %s\nreply %s", st.name, err, s, p.job, p.reply)
	}
	return err == nil
}

// performance is one connection that plays a schedule.
type performance struct {
	*stage
	*schedule
	job, reply *stream
}

func (p *performance) run() error {
	holder, holding := net.Conn(nil), net.Conn(nil)
	if p.waits {
		var err error
		if holder, holding, err = p.hold(); err != nil {
			return err
		}
		defer holder.Close()
		defer holding.Close()
	}
	socket, err := p.listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	setBuffers(socket, p.service.small)
	conn, err := p.dial(p.client.small)
	if err != nil {
		return err
	}
	defer conn.Close()
	mayClose := make(chan struct{})
	close := sync.OnceFunc(func() { close(mayClose) })
	defer close()
	stays := p.stays && p.linger != long
	if !stays {
		close()
	}
	var client, service *actor
	act := func() { client = newActor(&p.client, conn, p.job, p.reply, mayClose) }
	if p.waits {
		act()
		<-client.said
		waiting := 0
		if p.served() {
			waiting = 1
		}
		if err := p.await(patience, 1, waiting); err != nil {
			return fmt.Errorf("in line: %w", err)
		}
		holding.Close()
		holder.Close()
	}
	if p.served() {
		conn, err := p.accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		p.awaitConnected()
		if !p.waits {
			act()
		}
		service = newActor(&p.service, conn, p.reply, p.job, nil)
		<-service.end
	}
	<-client.heard
	if !stays {
		<-client.end
	}
	if err := p.await(p.linger%long+inTime, 0, 0); err != nil {
		return fmt.Errorf("both sides are done: %w", err)
	}
	if stays {
		close()
		<-client.end
	}
	if len(p.came) > 0 {
		return fmt.Errorf("found another connection at the service")
	}
	return nil
}

// hold has a client hold the slot.
func (p *performance) hold() (holder, holding *net.TCPConn, err error) {
	if holder, err = p.dial(false); err != nil {
		return nil, nil, err
	}
	if holding, err = p.accept(); err != nil {
		holder.Close()
		return nil, nil, fmt.Errorf("the holder: %w", err)
	}
	return holder, holding, nil
}

// dial connects to the lock.
func (st *stage) dial(small bool) (*net.TCPConn, error) {
	st.clients++
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, socket syscall.RawConn) error {
		setBuffers(socket, small)
		return nil
	}}
	conn, err := d.Dial("tcp", st.address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// accept returns the next connection to the service.
func (st *stage) accept() (*net.TCPConn, error) {
	select {
	case conn := <-st.came:
		return conn, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("no connection has come to the service after %s", patience)
	}
}

// await waits until the lock has so many holders and waiters.
func (st *stage) await(most time.Duration, held, waiting int) error {
	for end := time.Now().Add(most); ; time.Sleep(50 * time.Microsecond) {
		_, h, w, leftOver := caddytest.LockStats(st.name)
		if h == held && w == waiting && leftOver == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("found %d holders, %d waiters and %d left over after %s, expected %d, %d and 0", h, w, leftOver, most, held, waiting)
		}
	}
}

// awaitConnected waits until the lock knows that it is connected to the service. A service that resets before
// that cannot be told from one that is not there.
func (p *performance) awaitConnected() {
	if p.way != "to" || p.service.end != resets {
		return
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Microsecond) {
		if holders := caddytest.Status(p.t, p.name).Holders; len(holders) == 1 && holders[0].State == status.StateConnected {
			return
		}
	}
}
