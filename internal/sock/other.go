//go:build !linux

// Package sock has connections that join Go's poller only when a goroutine has to wait for them: on Linux.
package sock

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Supported says whether this system has such connections.
const Supported = false

// Conn is a connection, of which there are none here.
type Conn struct{ net.Conn }

var ErrNotNow = errors.ErrUnsupported

type (
	Observer interface{ SocketReady() }
	Events   uint32
)

const (
	Hangup Events = iota
	EndOf
	Input
)

func Ready() bool                                     { return false }
func Dup(syscall.Conn) (*Conn, error)                 { return nil, errors.ErrUnsupported }
func Dial(netip.AddrPort) (*Conn, error)              { return nil, errors.ErrUnsupported }
func (c *Conn) Connected() error                      { return errors.ErrUnsupported }
func (c *Conn) Await(time.Time) error                 { return errors.ErrUnsupported }
func (c *Conn) WriteLast([]byte) (int, error)         { return 0, errors.ErrUnsupported }
func (c *Conn) TryRead([]byte) (int, error)           { return 0, errors.ErrUnsupported }
func (c *Conn) Watch(Observer, Events) error          { return errors.ErrUnsupported }
func (c *Conn) CloseWrite() error                     { return errors.ErrUnsupported }
func (c *Conn) Shutdown() error                       { return errors.ErrUnsupported }
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }
