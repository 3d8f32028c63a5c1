package listen

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
		i := slices.IndexFunc(all, func(l listener) bool { return overlap(addr, l.addr) && !own[l.inode] })
		if i >= 0 {
			return fmt.Errorf("lock %s: found another process%s that listens on %s already: with both, twice as many connections as there are slots "+
				"would reach the service; end that process, or listen on another address", locks[address], describeOwner(all[i].inode), address)
		}
	}
	return nil
}

type listener struct {
	addr  netip.AddrPort
	inode string
}

// listeners returns the listening TCP sockets of the machine, and the inodes of this process's sockets.
func listeners() (all []listener, own map[string]bool) {
	all = slices.Concat(listenersIn("/proc/net/tcp"), listenersIn("/proc/net/tcp6"))
	return all, ownSockets() // after the others, so that it has each of them that is ours
}

// listenersIn reads the listening sockets in /proc/net/tcp or tcp6, see proc(5).
func listenersIn(file string) (all []listener) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		const listen = "0A"
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		if addr, ok := parseProcAddr(fields[1]); ok {
			all = append(all, listener{addr, fields[9]})
		}
	}
	return all
}

// parseProcAddr reads an address as /proc/net has it: words of four bytes, each as the
// processor has it in memory, and the port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(ip)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n)), ok
}

// ownSockets returns the inodes of this process's sockets. It returns nil if it cannot read them, as
// when no descriptor is left.
func ownSockets() map[string]bool { return socketsOf("/proc/self/fd") }

func socketsOf(dir string) map[string]bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	sockets := make(map[string]bool)
	for _, entry := range entries {
		link, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			sockets[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return sockets
}

// describeOwner tells which process has the socket. It returns "" if the system does not say.
func describeOwner(inode string) string {
	dirs, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range dirs {
		if socketsOf(dir)[inode] {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "comm"))
			return fmt.Sprintf(" (%s, pid %s)", strings.TrimSpace(string(name)), filepath.Base(filepath.Dir(dir)))
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
		case own[l.inode]:
			return ": found this process itself to listen on " + l.addr.String() + " in another way, expected one way for one port: use the same address in all places, or restart Caddy if it was another one before"
		default:
			return ": found another process" + describeOwner(l.inode) + " that listens on " + address + " already: end it, or listen on another address"
		}
	}
	return ""
}
