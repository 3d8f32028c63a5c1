package listen

import (
	"net"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// resolve returns the IP and port of a listen address, as net.Listen finds them. It returns false
// for port 0, for a network other than TCP, and for an unknown name.
func resolve(address string) (addr netip.AddrPort, ok bool) {
	if parsed, err := caddy.ParseNetworkAddress(address); err != nil || parsed.Network != "tcp" {
		return addr, false
	}
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil || tcp.Port == 0 { // layer4 reports the unknown name when it listens
		return addr, false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if !ok || tcp.IP.IsUnspecified() {
		ip = netip.IPv6Unspecified() // net.Listen takes 0.0.0.0 for it as well
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(tcp.Port)), true
}

// overlap reports whether listeners on a and b could get the same connection.
func overlap(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr().IsUnspecified() || b.Addr().IsUnspecified() || a.Addr().Unmap() == b.Addr().Unmap())
}

// Reaches reports whether a connection from this machine to address comes to a listener on another one.
func Reaches(address, listener string) bool {
	_, port, err := net.SplitHostPort(address)
	if _, at, _ := net.SplitHostPort(listener); err != nil || port != at {
		return false // so that no name is looked up
	}
	to, ok := resolve(address)
	on, listens := resolve(listener)
	return ok && listens && (to.Addr() == on.Addr() || on.Addr().IsUnspecified() && isOwn(to.Addr()))
}

// isOwn reports whether an IP is this machine's.
func isOwn(ip netip.Addr) bool {
	if ip.IsUnspecified() || ip.IsLoopback() {
		return true
	}
	all, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(all, func(addr net.Addr) bool {
		network, err := netip.ParsePrefix(addr.String())
		return err == nil && network.Addr().Unmap() == ip
	})
}
