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

const (
	checkInterval = 500 * time.Millisecond
	checks        = 3 // so many checks in a row must find connections waiting
)

// Watch checks the listeners of the servers from now on. Where connections are left waiting, it
// accepts them in place of caddy-l4. stop ends that, and returns once no goroutine is left.
//
// When a process has no file descriptor left, accept fails, and after that caddy-l4 never accepts
// again. The budget of descriptors limits the connections at the locks, but it counts a connection
// only once it has reached a lock, and caddy-l4 may accept a burst of them before that. If caddy-l4
// has not stopped and is only slow, as in a long flood, both accept, which does no harm.
func Watch(servers map[string]*layer4.Server, logger *zap.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		var waited map[int]int // by descriptor: how many checks in a row have found connections waiting
		for clock.Sleep(ctx, checkInterval) {
			if waited == nil { // only now: with many descriptors it takes long, and a reload would wait
				waited = listening()
			}
			for fd := range waited {
				if waited[fd]++; !isWaiting(fd) {
					waited[fd] = 0
				}
				if waited[fd] < checks {
					continue
				}
				server := serverAt(fd, servers)
				if server == nil { // no layer4 server listens there
					delete(waited, fd)
					continue
				}
				ln, err := copyListener(fd)
				if err != nil { // most likely there is still no descriptor left
					continue
				}
				logger.Error("connections are left waiting: caddy-l4 is slow to accept them, or has stopped because the process "+
					"had no file descriptor left (raise its limit); accepting them in its place",
					zap.String("address", ln.Addr().String()))
				delete(waited, fd)
				running.Go(func() { standIn(ctx, ln, server, logger) })
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// listening returns the process's listening sockets. It looks through all descriptors, since neither
// Caddy nor caddy-l4 tells which these are. It returns nil if no descriptor is left to read the
// list.
func listening() map[int]int {
	files, err := os.ReadDir("/dev/fd")
	if err != nil {
		return nil
	}
	fds := make(map[int]int)
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err == nil && isListening(fd) {
			fds[fd] = 0
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

func copyListener(fd int) (net.Listener, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(dup), "")
	defer file.Close()
	return net.FileListener(file)
}

// standIn accepts and serves connections as a caddy-l4 server does, but goes on after an error.
func standIn(ctx context.Context, ln net.Listener, server *layer4.Server, logger *zap.Logger) {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	end := layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
	routes := server.Routes.Compile(logger, time.Duration(server.MatchingTimeout), end)
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, unix.EINVAL): // EINVAL: no longer a listener
			return
		case err != nil:
			clock.Sleep(ctx, checkInterval)
		default:
			go func() {
				defer conn.Close()
				cx := layer4.WrapConnection(conn, nil, logger)
				if err := routes.Handle(cx); err != nil {
					logger.Error("handling connection", zap.String("remote", cx.RemoteAddr().String()), zap.Error(err))
				}
			}()
		}
	}
}
