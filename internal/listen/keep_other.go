//go:build !unix || solaris

package listen

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Network is the name of the network keep/.
const Network = "keep"

func init() {
	caddy.RegisterNetwork(Network, listenKeep)
	caddyhttp.RegisterNetworkHTTP3(Network, "udp")
}

// listenKeep listens as tcp/ does: on this system Caddy's configs share their sockets already.
func listenKeep(ctx context.Context, _, host, ports string, offset uint, config net.ListenConfig) (any, error) {
	first, _, _ := strings.Cut(ports, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return nil, err
	}
	address := caddy.NetworkAddress{Network: "tcp", Host: host, StartPort: uint(port), EndPort: uint(port)}
	return address.Listen(ctx, offset, config)
}

// CheckChange returns nil: on this system an address may change its network.
func CheckChange(caddy.NetworkAddress) error { return nil }

// Direct does nothing: here no connection can be taken over.
func Direct(context.Context, map[string]Take) {}
