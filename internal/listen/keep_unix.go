//go:build unix && !solaris

package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
)

// Network is the name of the network keep/.
const Network = "keep"

func init() {
	caddy.RegisterNetwork(Network, listenKeep)
	caddyhttp.RegisterNetworkHTTP3(Network, "udp")
}

// sockets has the sockets of keep/, by address, for as long as a config uses them.
var sockets = caddy.NewUsagePool()

// socket is one listening socket, which all configs share. Caddy's own sockets belong to one config
// each: when a reload closes one, the system resets the connections in its accept queue.
type socket struct {
	*net.TCPListener
	address string        // as logs and errors have it
	turn    chan struct{} // full while a handle accepts
	failing clock.Limit   // of the log lines of accepts that fail

	mu    sync.Mutex
	users map[<-chan struct{}]bool // the configs, each by the end of its context
}

// Destruct closes the socket. The last config that used it has ended.
func (s *socket) Destruct() error { return s.TCPListener.Close() }

// handle is one config's use of a socket.
type handle struct {
	*socket
	config <-chan struct{} // closed when the config has ended
	closed chan struct{}
	close  func() // closes the handle, once
}

// listenKeep is the network keep/, see caddy.ListenerFunc.
//
// A config that fails while it starts leaves its listeners open (caddy-l4 v0.1.2), so a handle ends
// with its config at the latest.
func listenKeep(ctx context.Context, _, host, ports string, offset uint, config net.ListenConfig) (any, error) {
	if ctx.Done() == nil { // only Caddy's admin endpoint comes without an end
		return nil, errors.New("keep/: found it as the address of the admin endpoint, expected another network: Caddy's commands could not connect to it")
	}
	first, _, _ := strings.Cut(ports, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("keep/: found port %q, expected a number: %w", ports, err)
	}
	address, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, strconv.FormatUint(port+uint64(offset), 10)))
	if err != nil {
		return nil, fmt.Errorf("keep/: %w", err)
	}
	if address.IP.IsUnspecified() {
		address.IP = nil // ":9000", "0.0.0.0:9000" and "[::]:9000" are one socket
	}
	key := any(address.String())
	if address.Port == 0 {
		key = address // any free port: each use has a socket of its own
	}
	value, _, err := sockets.LoadOrNew(key, func() (caddy.Destructor, error) { return open(ctx, address.String(), config) })
	if err != nil {
		return nil, err
	}
	s := value.(*socket)
	h := &handle{socket: s, config: ctx.Done(), closed: make(chan struct{})}
	if !s.use(h.config) {
		_, _ = sockets.Delete(key)
		return nil, fmt.Errorf("keep/: found %s twice in one config, expected each address once: both servers would get a part of the connections", s.address)
	}
	_ = setKeepAlive(s.TCPListener, config.KeepAliveConfig)
	h.close = sync.OnceFunc(func() {
		close(h.closed)
		s.forget(h.config)
		_ = s.SetDeadline(time.Unix(1, 0)) // wakes the handle that accepts; it removes the deadline
		_, _ = sockets.Delete(key)
	})
	context.AfterFunc(ctx, h.close)
	return h, nil
}

// open opens a socket without SO_REUSEPORT, so that no second process can listen there.
func open(ctx context.Context, address string, config net.ListenConfig) (*socket, error) {
	if inherits {
		config.KeepAlive, config.KeepAliveConfig = -1, net.KeepAliveConfig{} // see setKeepAlive
	}
	config.SetMultipathTCP(false) // it costs each connection time
	ln, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("keep/%s: %w%s", address, err, explainInUse(address))
	}
	if err != nil {
		return nil, fmt.Errorf("keep/%s: %w", address, err)
	}
	s := &socket{TCPListener: ln.(*net.TCPListener), address: address, turn: make(chan struct{}, 1), users: make(map[<-chan struct{}]bool)}
	s.failing.Most, s.failing.Tell = 1, func(int) {}
	return s, nil
}

// use notes that a config uses the socket. It returns false if the config does already.
func (s *socket) use(config <-chan struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[config] {
		return false
	}
	s.users[config] = true
	return true
}

func (s *socket) forget(config <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, config)
}

// Accept returns the next connection. It goes on after errors, until the handle is closed: when
// descriptors run out, connections wait in the system's queue until there are some.
//
// The handles of a socket take turns: the one that accepts goes on until it is closed.
func (h *handle) Accept() (net.Conn, error) {
	select {
	case h.turn <- struct{}{}:
	case <-h.closed:
		return nil, h.errClosed()
	}
	defer func() { <-h.turn }()
	for {
		select {
		case <-h.closed:
			return nil, h.errClosed()
		default:
		}
		conn, err := h.AcceptTCP()
		switch {
		case err == nil:
			return &Conn{conn, Arrive()}, nil // also if the handle was closed meanwhile: its config can still serve it
		case errors.Is(err, os.ErrDeadlineExceeded): // a handle was closed
			_ = h.SetDeadline(time.Time{})
		case errors.Is(err, net.ErrClosed):
			return nil, h.errClosed()
		default:
			h.pause(err)
		}
	}
}

// acceptPause is the time between two tries to accept when no descriptor is left.
const acceptPause = 50 * time.Millisecond

func (h *handle) pause(err error) {
	if h.failing.Allow() {
		caddy.Log().Named("listen").Error("cannot accept connections; they wait until it is possible again (raise the limit of file descriptors)",
			zap.String("address", Network+"/"+h.address), zap.Error(err))
	}
	timer := time.NewTimer(acceptPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.closed:
	}
}

// Close ends this config's use of the socket.
func (h *handle) Close() error {
	h.close()
	return nil
}

func (h *handle) errClosed() error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: h.Addr(), Err: net.ErrClosed}
}

// CheckChange refuses an address that this process cannot listen on before the config in force has
// ended: a socket of keep/ stands beside no other one, and a reload opens the new sockets before it
// closes the old ones.
func CheckChange(address caddy.NetworkAddress) error {
	if address.Network != Network && address.Network != "tcp" {
		return nil
	}
	for _, one := range address.Expand() {
		wanted, ok := resolve(one.JoinHostPort(0))
		if !ok {
			continue
		}
		kept := false
		var err error
		sockets.Range(func(_, value any) bool {
			s, ok := value.(*socket)
			if !ok {
				return true
			}
			open, _ := resolve(s.Addr().String())
			switch same := open == wanted; {
			case one.Network == Network && same:
				kept = true
			case overlap(open, wanted):
				err = errChange(one, Network+"/"+s.address)
			}
			return err == nil
		})
		if err == nil && one.Network == Network && !kept && listensAt(wanted) {
			err = errChange(one, "this port in another way")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func errChange(wanted caddy.NetworkAddress, now string) error {
	return fmt.Errorf("found listen address %s, and this process listens on %s now, expected another port: a reload cannot change from one to the other; restart Caddy", wanted, now)
}

// listensAt reports whether this process has a listening socket at the address.
func listensAt(wanted netip.AddrPort) bool {
	for _, fd := range listening() {
		name, _ := unix.Getsockname(fd)
		var at netip.AddrPort
		switch name := name.(type) {
		case *unix.SockaddrInet4:
			at = netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port))
		case *unix.SockaddrInet6:
			at = netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), uint16(name.Port))
		default:
			continue
		}
		if overlap(at, wanted) {
			return true
		}
	}
	return false
}
