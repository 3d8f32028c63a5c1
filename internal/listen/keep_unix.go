//go:build unix && !solaris

package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// sockets has the sockets of keep/ that a config uses, by address. The mutex is held while a socket is
// opened or closed, so that an address that goes and comes back is free in time.
var sockets = struct {
	sync.Mutex
	open map[any]*socket
}{open: make(map[any]*socket)}

// socket is one listening socket, which all configs share. Caddy's own sockets belong to one config
// each: when a reload closes one, the system resets the connections in its accept queue.
type socket struct {
	*net.TCPListener
	address string                      // as logs and errors have it
	users   map[<-chan struct{}]*handle // the configs, each by the end of its context; under the mutex of sockets
	turn    chan struct{}               // full while a handle accepts
	left    chan *Conn                  // has a connection that a handle has accepted when its config had ended
	failing clock.Limit                 // of the log lines of accepts that fail
}

// handle is one config's use of a socket.
type handle struct {
	*socket
	config <-chan struct{} // closed when the config has ended
	closed chan struct{}
	close  func() // closes the handle, once
	take   atomic.Pointer[Take]
}

// Direct has the connections of a config go to these functions, by address, as soon as they are accepted. Those
// that are not taken over go on to the caller of Accept.
func Direct(config context.Context, takes map[string]Take) {
	sockets.Lock()
	defer sockets.Unlock()
	for _, s := range sockets.open {
		if h, take := s.users[config.Done()], takes[s.address]; h != nil && take != nil {
			h.take.Store(&take)
		}
	}
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
	h := &handle{config: ctx.Done(), closed: make(chan struct{})}
	if err := h.use(ctx, key, address.String(), config); err != nil {
		return nil, err
	}
	h.close = sync.OnceFunc(func() {
		close(h.closed)
		_ = h.SetDeadline(time.Unix(1, 0)) // wakes the handle that accepts; it removes the deadline
		h.forget(h.config, key)
	})
	context.AfterFunc(ctx, h.close)
	return h, nil
}

// use gives h the socket of an address. It opens the socket if it is new.
func (h *handle) use(ctx context.Context, key any, address string, config net.ListenConfig) (err error) {
	sockets.Lock()
	defer sockets.Unlock()
	s := sockets.open[key]
	if s == nil {
		if s, err = open(ctx, address, config); err != nil {
			return err
		}
		sockets.open[key] = s
	}
	if s.users[h.config] != nil {
		return fmt.Errorf("keep/: found %s twice in one config, expected each address once: both servers would get a part of the connections", s.address)
	}
	h.socket, s.users[h.config] = s, h
	_ = setKeepAlive(s.TCPListener, config.KeepAliveConfig)
	return nil
}

// forget notes that a config has ended. The last one closes the socket.
func (s *socket) forget(config <-chan struct{}, key any) {
	sockets.Lock()
	defer sockets.Unlock()
	delete(s.users, config)
	if len(s.users) == 0 {
		delete(sockets.open, key)
		_ = s.TCPListener.Close()
		select {
		case conn := <-s.left: // as those in the system's queue
			_ = conn.Close()
		default:
		}
	}
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
	s := &socket{TCPListener: ln.(*net.TCPListener), address: address, turn: make(chan struct{}, 1), left: make(chan *Conn, 1), users: make(map[<-chan struct{}]*handle)}
	s.failing.Most, s.failing.Tell = 1, func(int) {}
	return s, nil
}

// Accept returns the next connection that is not taken over, see Direct. It goes on after errors, until the handle is closed: when
// descriptors run out, connections wait in the system's queue until there are some.
//
// During a reload a socket has two handles. They take turns, one connection each.
func (h *handle) Accept() (net.Conn, error) {
	for {
		conn, err := h.accept()
		if err != nil {
			return nil, err
		}
		if take := h.take.Load(); take == nil || !(*take)(conn) {
			return conn, nil
		}
	}
}

func (h *handle) accept() (*Conn, error) {
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
		case conn := <-h.left:
			return conn, nil
		default:
		}
		conn, err := h.AcceptTCP()
		switch {
		case err == nil:
			accepted := &Conn{TCPConn: conn, arrival: arrivals.Add(1)}
			if h.passOn(accepted) {
				return nil, h.errClosed()
			}
			return accepted, nil
		case errors.Is(err, os.ErrDeadlineExceeded): // a handle was closed
			_ = h.SetDeadline(time.Time{})
		case errors.Is(err, net.ErrClosed):
			return nil, h.errClosed()
		default:
			h.pause(err)
		}
	}
}

// passOn gives a connection to another config's handle if this one was closed meanwhile. If there is no other, it
// returns false: this config can still serve the connection.
func (h *handle) passOn(conn *Conn) bool {
	select {
	case <-h.closed:
	default:
		return false
	}
	sockets.Lock()
	defer sockets.Unlock()
	for _, other := range h.users {
		if other == h {
			continue
		}
		select {
		case h.left <- conn:
			_ = h.SetDeadline(time.Unix(1, 0)) // wakes that handle
			return true
		default:
		}
	}
	return false
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
	kept, all := openSockets(), sync.OnceValue(listenAddrs)
	for _, one := range address.Expand() {
		wanted, ok := resolve(one.JoinHostPort(0))
		if !ok || one.Network == Network && kept[wanted] != nil {
			continue
		}
		for at, s := range kept {
			if overlap(at, wanted) {
				return errChange(one, Network+"/"+s.address)
			}
		}
		if one.Network == Network && slices.ContainsFunc(all(), func(at netip.AddrPort) bool { return overlap(at, wanted) }) {
			return errChange(one, "this port in another way")
		}
	}
	return nil
}

// openSockets returns the sockets of keep/ by IP and port.
func openSockets() map[netip.AddrPort]*socket {
	sockets.Lock()
	defer sockets.Unlock()
	all := make(map[netip.AddrPort]*socket)
	for _, s := range sockets.open {
		at, _ := resolve(s.Addr().String())
		all[at] = s
	}
	return all
}

func errChange(wanted caddy.NetworkAddress, now string) error {
	return fmt.Errorf("found listen address %s, and this process listens on %s now, expected another port: a reload cannot change from one to the other; restart Caddy", wanted, now)
}

// listenAddrs returns the TCP addresses on which this process listens.
func listenAddrs() (all []netip.AddrPort) {
	for _, fd := range listening() {
		switch name, _ := unix.Getsockname(fd); name := name.(type) {
		case *unix.SockaddrInet4:
			all = append(all, netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)))
		case *unix.SockaddrInet6:
			all = append(all, netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), uint16(name.Port)))
		}
	}
	return all
}
