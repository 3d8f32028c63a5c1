package caddytest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// The ports that FreeAddr gives out. They are below the range that systems use for outgoing
// connections: a client could take a port of that range before the server listens.
//
// The tests of several packages run in parallel, each in a process of its own. So that no two use
// the same port, a process listens on the first port of a block while it gives out the others.
const (
	firstPort  = 10_000
	blockPorts = 500
	portBlocks = 44
)

var ports struct {
	sync.Mutex
	block net.Listener
	first int // of the block
	given int
}

// FreeAddr returns a loopback address on which nothing listens, a new one at each call.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 10 * blockPorts {
		if ports.block == nil || ports.given == blockPorts-1 {
			takePorts(t)
		}
		ports.given++
		addr := fmt.Sprintf("127.0.0.1:%d", ports.first+ports.given)
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("found no port that is free")
	return ""
}

// takePorts takes a block that no other process has. It gives back the block before, so that the
// number of open descriptors stays the same.
func takePorts(t testing.TB) {
	t.Helper()
	for _, i := range rand.Perm(portBlocks) {
		first := firstPort + i*blockPorts
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first))
		if err != nil {
			continue
		}
		if ports.block != nil {
			ports.block.Close()
		}
		ports.block, ports.first, ports.given = ln, first, 0
		return
	}
	t.Fatal("found no block of ports that is free")
}
