//go:build !linux

package relay

import (
	"net/netip"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

func prepare(*sock.Conn, netip.AddrPort) error { return nil } // there are none
