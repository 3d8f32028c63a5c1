package lock_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"go.uber.org/zap"
)

// silentClient is a client that sends nothing. It can close its sending side, and takes
// what it gets.
type silentClient struct {
	net.Conn
	ended, closed chan struct{}
	end, close    func()
}

func newSilentClient() *silentClient {
	c := &silentClient{ended: make(chan struct{}), closed: make(chan struct{})}
	c.end = sync.OnceFunc(func() { close(c.ended) })
	c.close = sync.OnceFunc(func() { close(c.closed) })
	return c
}

func (c *silentClient) Read([]byte) (int, error) {
	select {
	case <-c.ended:
		return 0, io.EOF
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *silentClient) Write(b []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
		return len(b), nil
	}
}

func (c *silentClient) Close() error                     { c.close(); return nil }
func (c *silentClient) RemoteAddr() net.Addr             { return namedConn{name: "silent"} }
func (c *silentClient) LocalAddr() net.Addr              { return c.RemoteAddr() }
func (c *silentClient) SetDeadline(time.Time) error      { return nil }
func (c *silentClient) SetReadDeadline(time.Time) error  { return nil }
func (c *silentClient) SetWriteDeadline(time.Time) error { return nil }

// holds sends a silent client to the lock. The service does not let go of it before its process
// ends. The service answers with what is sent to says.
func (s *poolStage) holds(says <-chan string) *silentClient {
	c := newSilentClient()
	p := s.last()
	s.ended.Go(func() {
		_ = s.handler.Handle(layer4.WrapConnection(c, nil, zap.NewNop()), layer4.HandlerFunc(func(cx *layer4.Connection) error {
			go func() { _, _ = cx.Read(make([]byte, 1)) }() // as the proxy does
			for {
				select {
				case text := <-says:
					_, _ = io.WriteString(cx, text)
				case <-p.over:
					return nil
				}
			}
		}))
	})
	synctest.Wait()
	return c
}

// An operator requests a restart while the service hangs. As long as the client stays, the restart
// waits. When the client has closed its side, before or after that, and no byte has moved for 5 s,
// the client is cut, the slot is handed on, and the process is restarted.
func TestRestartOfHangingService(t *testing.T) {
	for _, test := range []struct {
		name string
		ends time.Duration // when the client closes its side; the restart is asked for at 10 s
		most time.Duration // when the next process is ready at the latest
	}{
		{"the client has closed its side", 5 * sec, 19 * sec},
		{"the client closes its side later", 60 * sec, 69 * sec},
	} {
		t.Run(test.name, func(t *testing.T) {
			playPool(t, func(s *poolStage) {
				s.load(withService(service.Service{}, "a:1"))
				s.until(2 * sec)
				c := s.holds(nil)
				time.AfterFunc(test.ends-2*sec, c.end)
				s.until(10 * sec)
				for range 3 { // once is enough, and more does no harm
					if n := s.lock.Restart(0); n != 1 {
						t.Errorf("found %d processes to restart, expected 1", n)
					}
				}
				s.until(max(test.ends, 10*sec) + 5*sec - 1)
				select {
				case <-c.closed:
					t.Error("found the client cut, expected it to have 5 s")
				default:
				}
				s.until(test.most)
				found := s.lock.Pool().List()[0].Status().Process
				if found.State != status.ProcessReady || found.Restarts[status.RestartRequest] != 1 {
					t.Errorf("found the process %s with restarts %v, expected one that was asked for", found.State, found.Restarts)
				}
				if n := s.lock.Status(0).Connections[status.Kicked]; n != 1 {
					t.Errorf("found %d connections kicked, expected 1", n)
				}
				s.processes[0].exit(nil)
			})
		})
	}
}

// A client has closed its side and still gets its answer, a little every few seconds. It is not cut
// while that goes on. When the service sends no more, it is cut.
func TestRestartLeavesAnAnsweredClient(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(2 * sec)
		says := make(chan string)
		c := s.holds(says)
		c.end()
		s.lock.Restart(1)
		for range 20 {
			time.Sleep(4 * sec)
			select {
			case says <- "more":
			case <-c.closed:
			}
		}
		select {
		case <-c.closed:
			t.Error("found the client cut while it got its answer, expected it to be left")
		default:
		}
		time.Sleep(8 * sec)
		synctest.Wait()
		if n := s.lock.Status(0).Connections[status.Kicked]; n != 1 {
			t.Errorf("found %d connections kicked, expected 1", n)
		}
		s.processes[0].exit(nil)
	})
}

// A restart that no operator has requested waits for the holder, however long it hangs: only
// hold_timeout ends it.
func TestOtherRestartsWait(t *testing.T) {
	playPool(t, func(s *poolStage) {
		s.load(withService(service.Service{}, "a:1"))
		s.until(2 * sec)
		c := s.holds(nil)
		c.end()
		s.lock.Pool().List()[0].Restart(status.RestartMemory)
		s.until(time.Hour)
		if n := s.lock.Status(0).Connections[status.Kicked]; n != 0 || s.last().number != 1 {
			t.Errorf("found %d connections kicked and %d processes, expected none and 1", n, s.last().number)
		}
		s.processes[0].exit(nil)
	})
}
