//go:build unix

package listen

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
)

// What Caddy's own listeners and caddy-l4 (v0.1.2) lack. All in this file can go once caddy-l4 accepts on
// after an error, and a reload of Caddy's keeps the accept queue. On keep/ it is not needed.
//
// When a process has no file descriptor left, accept fails, and after that caddy-l4 never accepts again.
// The budget of descriptors limits the connections at the locks, but it counts a connection only once
// it has reached a lock, and caddy-l4 may accept a burst of them before that.
//
// When a reload closes a listening socket, the system resets the connections in its accept queue.

const (
	checkInterval = 500 * time.Millisecond
	checks        = 3 // so many checks in a row must find connections waiting
)

// Guard accepts connections at the plain listeners of a config's servers, where caddy-l4 does not.
type Guard struct {
	servers map[string]*layer4.Server
	logger  *zap.Logger
	ctx     context.Context // done when the config has ended
	cancel  context.CancelFunc
	running sync.WaitGroup
	drained []*net.TCPListener // copies of the listeners, from Stopping on

	mu    sync.Mutex
	found map[descriptor]*layer4.Server // see listeners; nil: not looked for yet
}

// descriptor is a file descriptor of a socket. Its number alone may be another socket's meanwhile.
type descriptor struct {
	fd    int
	inode uint64 // on some systems 0 for all sockets
}

// at returns what has the number fd now, the zero value if nothing has.
func at(fd int) descriptor {
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) != nil {
		return descriptor{}
	}
	return descriptor{fd, uint64(stat.Ino)}
}

// Watch guards the listeners of the servers until Stop.
func Watch(servers map[string]*layer4.Server, logger *zap.Logger) *Guard {
	g := &Guard{servers: servers, logger: logger}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.running.Go(g.watch)
	return g
}

// watch accepts where connections are left waiting. If caddy-l4 has not stopped and is only slow, as in
// a long flood, both accept, which does no harm.
func (g *Guard) watch() {
	g.listeners()
	waited := make(map[descriptor]int) // how many checks in a row have found connections waiting
	for clock.Sleep(g.ctx, checkInterval) {
		for d := range g.listeners() {
			if waited[d] < 0 {
				continue
			}
			if waited[d]++; !isWaiting(d.fd) {
				waited[d] = 0
			}
			if waited[d] < checks {
				continue
			}
			ln, routes := g.copyOf(d)
			if ln == nil { // most likely there is still no descriptor left
				continue
			}
			g.logger.Error("connections are left waiting: caddy-l4 is slow to accept them, or has stopped because the process "+
				"had no file descriptor left (raise its limit, or listen on keep/); accepting them in its place",
				zap.String("address", ln.Addr().String()))
			waited[d] = -1
			g.running.Go(func() {
				defer ln.Close()
				defer context.AfterFunc(g.ctx, func() { ln.Close() })()
				g.accept(ln, routes)
			})
		}
	}
}

// Stopping tells that the config is about to end. From now on until Stop, connections at its TCP
// listeners are accepted here too, so that none is left in an accept queue when caddy-l4 has closed
// the socket.
func (g *Guard) Stopping() {
	for d := range g.listeners() {
		ln, routes := g.copyOf(d)
		tcp, ok := ln.(*net.TCPListener)
		if !ok { // Caddy's configs share the sockets of all other networks
			if ln != nil {
				ln.Close()
			}
			continue
		}
		g.drained = append(g.drained, tcp)
		g.running.Go(func() {
			defer ln.Close()
			g.accept(ln, routes)
			for isLeft(tcp) {
				_ = tcp.SetDeadline(time.Now().Add(time.Second)) // the client may have gone meanwhile
				if g.acceptOne(ln, routes) != nil {
					return
				}
			}
		})
	}
}

// Stop ends the guard. The servers have stopped.
func (g *Guard) Stop() {
	g.cancel()
	for _, ln := range g.drained {
		_ = ln.SetDeadline(time.Unix(1, 0))
	}
	g.running.Wait()
}

// listeners returns the listening sockets of the servers. It looks through all descriptors of the
// process, since neither Caddy nor caddy-l4 tells which these are. Some of them may be closed, see
// copyOf. It returns none if no descriptor is left to read the list.
func (g *Guard) listeners() map[descriptor]*layer4.Server {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.found == nil {
		fds := listening()
		if fds == nil {
			return nil
		}
		g.found = make(map[descriptor]*layer4.Server)
		for _, fd := range fds {
			if server := serverAt(fd, g.servers); server != nil {
				g.found[at(fd)] = server
			}
		}
	}
	return g.found
}

// listening returns this process's listening sockets, nil if no descriptor is left to read the list.
func listening() []int {
	files, err := os.ReadDir("/dev/fd")
	if err != nil {
		return nil
	}
	fds := []int{}
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err == nil && isListening(fd) {
			fds = append(fds, fd)
		}
	}
	return fds
}

func isListening(fd int) bool {
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && listens != 0
}

// isWaiting reports whether a connection at the listener waits to be accepted.
func isWaiting(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents == unix.POLLIN
}

// serverAt returns the server that listens on fd, nil if none does.
func serverAt(fd int, servers map[string]*layer4.Server) *layer4.Server {
	if !isListening(fd) {
		return nil
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	for _, server := range servers {
		for _, listen := range server.Listen {
			addrs, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(listen, ""))
			if err != nil {
				continue
			}
			for _, addr := range addrs.Expand() {
				if isAt(name, addr) {
					return server
				}
			}
		}
	}
	return nil
}

func isAt(name unix.Sockaddr, addr caddy.NetworkAddress) bool {
	var ip net.IP
	var port int
	switch name := name.(type) {
	case *unix.SockaddrUnix:
		path, _, _ := strings.Cut(addr.Host, "|") // permissions follow
		return addr.IsUnixNetwork() && name.Name == path
	case *unix.SockaddrInet4:
		ip, port = name.Addr[:], name.Port
	case *unix.SockaddrInet6:
		ip, port = name.Addr[:], name.Port
	}
	if !strings.HasPrefix(addr.Network, "tcp") || uint(port) != addr.StartPort {
		return false
	}
	tcp, err := net.ResolveTCPAddr(addr.Network, addr.JoinHostPort(0))
	return err == nil && (ip.Equal(tcp.IP) || ip.IsUnspecified() && (tcp.IP == nil || tcp.IP.IsUnspecified()))
}

// copyOf returns a copy of a listener, and what its server does with connections. It returns nil if the
// listener is closed, or if there is no descriptor left.
func (g *Guard) copyOf(d descriptor) (net.Listener, layer4.Handler) {
	dup, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil
	}
	server := serverAt(dup, g.servers)
	if server == nil || at(dup).inode != d.inode {
		unix.Close(dup)
		return nil, nil
	}
	file := os.NewFile(uintptr(dup), "")
	defer file.Close()
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, nil
	}
	return ln, g.routesOf(server)
}

// accept accepts and serves connections as a caddy-l4 server does, but goes on after an error. It ends
// when ln is closed, or has a deadline that has passed.
func (g *Guard) accept(ln net.Listener, routes layer4.Handler) {
	for {
		err := g.acceptOne(ln, routes)
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EINVAL): // EINVAL: no longer a listener
			return
		default:
			clock.Sleep(g.ctx, checkInterval)
		}
	}
}

func (g *Guard) acceptOne(ln net.Listener, routes layer4.Handler) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	go func() {
		defer conn.Close()
		cx := layer4.WrapConnection(conn, nil, g.logger)
		if err := routes.Handle(cx); err != nil {
			g.logger.Error("handling connection", zap.String("remote", cx.RemoteAddr().String()), zap.Error(err))
		}
	}()
	return nil
}

// routesOf returns what a server does with a connection.
func (g *Guard) routesOf(server *layer4.Server) layer4.Handler {
	end := layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
	return server.Routes.Compile(g.logger, time.Duration(server.MatchingTimeout), end)
}

// isLeft reports whether a connection waits in the accept queue of ln.
func isLeft(ln *net.TCPListener) (left bool) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { left = isWaiting(int(fd)) })
	return left
}
