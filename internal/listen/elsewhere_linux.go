package listen

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/prometheus/procfs"
)

// Elsewhere returns an error if another process listens on one of the addresses. locks has the name
// of a lock for each address. An address without an IP stands for all IPs. Elsewhere reads /proc,
// and returns nil if it cannot.
//
// Caddy's listeners have SO_REUSEPORT, so two processes can listen on one address, and the system
// divides the connections between them. Each would let as many connections through as the lock has
// slots.
func Elsewhere(locks map[string]string) error {
	if len(locks) == 0 {
		return nil // the usual case at a reload; with many sockets, reading takes long
	}
	all, own := listeners()
	if own == nil {
		return nil
	}
	for _, address := range slices.Sorted(maps.Keys(locks)) {
		addr, ok := resolve(address)
		if !ok {
			continue
		}
		i := slices.IndexFunc(all, func(l listener) bool { return overlap(addr, l.addr) && !slices.Contains(own, l.socket) })
		if i >= 0 {
			return fmt.Errorf("lock %s: found another process%s that listens on %s already: with both, twice as many connections as there are slots "+
				"would reach the service; end that process, or listen on another address", locks[address], describeOwner(all[i].socket), address)
		}
	}
	return nil
}

type listener struct {
	addr   netip.AddrPort
	socket string // what a descriptor of it links to in /proc
}

// listeners returns the listening TCP sockets of the machine, and what the descriptors of this process
// link to. It returns no links if it cannot read them, as when no descriptor is left.
func listeners() (all []listener, own []string) {
	all = tcpListeners()
	self, err := procfs.Self()
	if err == nil {
		own, err = self.FileDescriptorTargets() // after the listeners, so that it has each of them that is ours
	}
	if err != nil {
		return nil, nil
	}
	return all, own
}

// tcpListeners reads /proc/net/tcp and tcp6, see proc(5).
func tcpListeners() (all []listener) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	tcp4, _ := fs.NetTCP()
	tcp6, _ := fs.NetTCP6()
	for _, s := range append(tcp4, tcp6...) {
		const listen = 0x0A
		if s.St != listen {
			continue
		}
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // procfs takes the processor to be little-endian
			for word := range slices.Chunk(s.LocalAddr, 4) {
				slices.Reverse(word)
			}
		}
		ip, _ := netip.AddrFromSlice(s.LocalAddr)
		all = append(all, listener{netip.AddrPortFrom(ip, uint16(s.LocalPort)), fmt.Sprintf("socket:[%d]", s.Inode)})
	}
	return all
}

// describeOwner tells which process has the socket. It returns "" if the system does not say.
func describeOwner(socket string) string {
	all, _ := procfs.AllProcs()
	for _, p := range all {
		if own, _ := p.FileDescriptorTargets(); slices.Contains(own, socket) {
			name, _ := p.Comm()
			return fmt.Sprintf(" (%s, pid %d)", name, p.PID)
		}
	}
	return ""
}

// explainInUse says what listens on an address that is in use. It returns "" if the system does not
// tell.
func explainInUse(address string) string {
	wanted, ok := resolve(address)
	all, own := listeners()
	if !ok || own == nil {
		return ""
	}
	for _, l := range all {
		switch {
		case !overlap(wanted, l.addr):
		case slices.Contains(own, l.socket):
			return fmt.Sprintf(": found this process itself to listen on %s in another way, expected one way for one port: "+
				"use the same address in all places, or restart Caddy if it was another one before", l.addr)
		default:
			return fmt.Sprintf(": found another process%s that listens on %s already: end it, or listen on another address", describeOwner(l.socket), address)
		}
	}
	return ""
}
