package tcplock

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Caddy's listeners have SO_REUSEPORT: a second process can listen on the address of the
// first, and the system deals the connections out to both. Each would let as many
// connections through as the lock has slots.

// listenElsewhere says which of these addresses another process listens on. An address with
// the unspecified IP stands for all. It reads /proc, and says nothing where that cannot be
// read.
func listenElsewhere(addrs []netip.AddrPort) error {
	own := ownSockets()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, l := range listeners(file) {
			i := slices.IndexFunc(addrs, func(addr netip.AddrPort) bool { return overlap(addr, l.addr) })
			if i < 0 || own[l.inode] {
				continue
			}
			return fmt.Errorf("found another process%s that listens on %s already: with both, twice as many connections as there are slots "+
				"would reach the service; end that process, or listen on another address", describeOwner(l.inode), addrs[i])
		}
	}
	return nil
}

// overlap reports whether one connection could come to both.
func overlap(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr().IsUnspecified() || b.Addr().IsUnspecified() || a.Addr().Unmap() == b.Addr().Unmap())
}

type listener struct {
	addr  netip.AddrPort
	inode string
}

// listeners reads those in /proc/net/tcp or tcp6, see proc(5).
func listeners(file string) (all []listener) {
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

// ownSockets are the inodes of this process's sockets.
func ownSockets() map[string]bool { return socketsOf("/proc/self/fd") }

func socketsOf(dir string) map[string]bool {
	sockets := make(map[string]bool)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		link, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			sockets[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return sockets
}

// describeOwner says which process has the socket, if the system tells this one.
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
