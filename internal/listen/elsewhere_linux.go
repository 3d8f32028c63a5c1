package listen

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

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
	all = slices.Concat(tcpListeners("/proc/net/tcp"), tcpListeners("/proc/net/tcp6"))
	self, err := procfs.Self()
	if err == nil {
		own, err = self.FileDescriptorTargets() // after the listeners, so that it has each of them that is ours
	}
	if err != nil {
		return nil, nil
	}
	return all, own
}

// tcpListeners reads the listening sockets in /proc/net/tcp or tcp6, see proc(5).
func tcpListeners(file string) (all []listener) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		const listen = "0A"
		if fields := strings.Fields(line); len(fields) >= 10 && fields[3] == listen {
			all = append(all, listener{parseProcAddr(fields[1]), "socket:[" + fields[9] + "]"})
		}
	}
	return all
}

// parseProcAddr reads an address as /proc/net has it: words of four bytes, each as the processor has
// it in memory, and the port.
func parseProcAddr(s string) netip.AddrPort {
	ip, port, _ := strings.Cut(s, ":")
	b, _ := hex.DecodeString(ip)
	n, _ := strconv.ParseUint(port, 16, 16)
	for word := range slices.Chunk(b[:len(b)/4*4], 4) {
		binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n))
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
