package dial

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Address splits an address (host:port or unix//path) into the two arguments of net.Dial. It returns
// an error if the address is not one that a client can connect to.
func Address(address string) (network, host string, err error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return "", "", fmt.Errorf("address: found %q, expected host:port or unix//path: %w", address, err)
	}
	ok := false
	switch a.Network {
	case "tcp", "tcp4", "tcp6":
		ok = a.PortRangeSize() == 1 && a.StartPort > 0
	case "unix":
		// After a | come permissions, which are for listeners only.
		ok = a.Host != "" && !strings.Contains(a.Host, "|")
	}
	if !ok {
		return "", "", fmt.Errorf("address: found %q, expected host:port or unix//path", address)
	}
	return a.Network, a.JoinHostPort(0), nil
}
