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

// When a process has no file descriptor left, accept fails, and after that caddy-l4 never
// accepts again. The budget keeps the locks from using the descriptors up, but it only
// counts connections that have got to a lock: a burst can be accepted faster than its
// first connection gets there. So each config looks after the listeners of its layer4
// servers, and where connections are left waiting it accepts them in caddy-l4's place.
// If caddy-l4 has not stopped but is only slow, as under a long flood, both accept, which
// does no harm.

const (
	lookInterval = 500 * time.Millisecond
	looks        = 3 // so many in a row have to find connections waiting
)

// Watch begins with it, and returns what ends it.
func Watch(servers map[string]*layer4.Server, logger *zap.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		var waited map[int]int // how many looks in a row have found connections waiting
		for clock.Sleep(ctx, lookInterval) {
			if waited == nil { // not in the reload, which would wait for it: there may be many descriptors
				waited = listening()
			}
			for fd := range waited {
				if waited[fd]++; !isWaiting(fd) {
					waited[fd] = 0
				}
				if waited[fd] < looks {
					continue
				}
				server := serverAt(fd, servers)
				if server == nil { // not a layer4 server's
					delete(waited, fd)
					continue
				}
				ln, err := copyListener(fd)
				if err != nil { // most likely there still is no descriptor left
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

// listening finds the process's listening sockets among its descriptors, since neither Caddy
// nor caddy-l4 tells them. It returns nil if no descriptor is left to look with.
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

// isWaiting reports whether a connection waits to be accepted.
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
		path, _, _ := strings.Cut(addr.Host, "|") // permissions stand behind it
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

// standIn does what a caddy-l4 server does, but goes on after an error.
func standIn(ctx context.Context, ln net.Listener, server *layer4.Server, logger *zap.Logger) {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	end := layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
	routes := server.Routes.Compile(logger, time.Duration(server.MatchingTimeout), end)
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, unix.EINVAL): // EINVAL: it listens no longer
			return
		case err != nil:
			clock.Sleep(ctx, lookInterval)
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
