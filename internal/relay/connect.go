// Package relay connects to the service, and copies between a client and the service.
package relay

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

// Service is a connection to the service.
type Service interface {
	net.Conn
	CloseWrite() error // no more will come from the client
}

// Error says why Connect has failed.
type Error struct {
	Kind string // one of Kinds
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// The kinds of errors.
const (
	Refused     = "refused"     // nothing listens there
	TimedOut    = "timeout"     // no answer came in time
	Reset       = "reset"       // it broke the connection at once
	Unreachable = "unreachable" // there is no way to the host
	Lookup      = "lookup"      // the name has no address
	Local       = "local"       // this system lacks something: descriptors, ports, memory. It says nothing about the service
	Other       = "other"
)

// Kinds has all kinds, each once.
var Kinds = [...]string{Refused, TimedOut, Reset, Unreachable, Lookup, Local, Other}

// Caller wants to connect. Context is called, once, if that takes time, and says how long it may take.
type Caller interface {
	Context() (context.Context, context.CancelFunc)
}

// Connect connects to the service. If that takes time, it takes that of the caller's context. Connect tries all addresses
// of a name, with a share of the time for each. All its errors are of type [*Error].
func Connect(caller Caller, network, address string) (Service, error) {
	if one, err := netip.ParseAddrPort(address); err == nil && sock.Supported && network != "unix" {
		conn, err := connect(caller, one)
		if err != nil {
			return nil, classify(&net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(one), Err: err})
		}
		return conn, nil
	}
	ctx, cancel := caller.Context()
	defer cancel()
	return dialAll(ctx, network, address)
}

// connect waits only if the connection is not there at once, as it is if the service is on this machine.
func connect(caller Caller, to netip.AddrPort) (*sock.Conn, error) {
	conn, err := sock.Dial(to)
	if err != nil {
		return nil, err
	}
	if err = conn.Connected(); err == sock.ErrNotNow {
		err = await(caller, conn)
	}
	if err == nil {
		err = prepare(conn, to)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func await(caller Caller, conn *sock.Conn) error {
	ctx, cancel := caller.Context()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	by, _ := ctx.Deadline()
	err := conn.Await(by)
	if !stop() {
		err = ctx.Err()
	}
	return err
}

func dialAll(ctx context.Context, network, address string) (Service, error) {
	if network == "unix" {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, classify(err)
		}
		return conn.(*net.UnixConn), nil
	}
	all, err := lookUp(ctx, network, address)
	if err != nil {
		return nil, &Error{Lookup, err}
	}
	var failed *Error
	for i, one := range all {
		conn, err := try(ctx, network, one, len(all)-i)
		if err == nil {
			return conn, nil
		}
		failed = worse(failed, classify(err))
	}
	return nil, failed
}

// worse returns the error that says more about the service: that of the first address that could be tried.
func worse(before, now *Error) *Error {
	if before == nil || before.Kind == Local {
		return now
	}
	return before
}

// lookUp returns the addresses that an address with a name stands for; at least one.
func lookUp(ctx context.Context, network, address string) (all []netip.AddrPort, err error) {
	if one, err := netip.ParseAddrPort(address); err == nil {
		return []netip.AddrPort{one}, nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "localhost"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+network[len("tcp"):], host)
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return all, err
}

// keepAlive finds a service that has vanished without a word, while no byte is under way: after 2.5 minutes.
// There is no limit to how long a byte may be under way but the system's: a service that lives may take
// nothing for long, and TCP_USER_TIMEOUT would cut it.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}

// try connects to one address, within the time of ctx divided by share.
func try(ctx context.Context, network string, address netip.AddrPort, share int) (Service, error) {
	if end, bounded := ctx.Deadline(); bounded && share > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(share))
		defer cancel()
	}
	d := net.Dialer{KeepAliveConfig: keepAlive, KeepAlive: -1}
	if address.Addr().IsLoopback() {
		d.KeepAliveConfig.Enable = false // the system knows when that service ends
	}
	conn, err := d.DialContext(ctx, network, address.String())
	if err != nil {
		return nil, err
	}
	if isSelf(conn) {
		conn.Close()
		return nil, errSelf{}
	}
	return conn.(*net.TCPConn), nil
}

// isSelf reports whether both ends of conn are one socket. That can happen if nothing listens at a port
// that the system also gives to clients.
func isSelf(conn net.Conn) bool {
	local, remote := conn.LocalAddr().(*net.TCPAddr), conn.RemoteAddr().(*net.TCPAddr)
	return local.Port == remote.Port && local.IP.Equal(remote.IP)
}

type errSelf struct{}

func (errSelf) Error() string { return "connected to itself, so no service listens there" }

func (errSelf) Is(target error) bool { return target == syscall.ECONNREFUSED }

// The errors of Windows for what classify looks for.
const (
	wsaeMFile        = syscall.Errno(10024)
	wsaeAddrNotAvail = syscall.Errno(10049)
	wsaeNetUnreach   = syscall.Errno(10051)
	wsaeNoBufs       = syscall.Errno(10055)
	wsaeHostUnreach  = syscall.Errno(10065)
)

func classify(err error) *Error {
	is := func(some ...error) bool {
		for _, one := range some {
			if errors.Is(err, one) {
				return true
			}
		}
		return false
	}
	kind := Other
	switch {
	case dial.Refused(err) || is(fs.ErrNotExist): // no unix socket is there
		kind = Refused
	case dial.Reset(err):
		kind = Reset
	case is(os.ErrDeadlineExceeded, context.DeadlineExceeded, syscall.ETIMEDOUT):
		kind = TimedOut
	case is(syscall.EHOSTUNREACH, syscall.ENETUNREACH, wsaeHostUnreach, wsaeNetUnreach):
		kind = Unreachable
	case is(syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM, wsaeMFile, wsaeAddrNotAvail, wsaeNoBufs):
		kind = Local
	}
	return &Error{kind, err}
}
