package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// target is a running server, or the service itself.
type target struct {
	server
	*process // nil: the service itself
	addrs    []netip.AddrPort
	admin    string        // Caddy's admin API
	config   string        // Caddy's
	started  time.Duration // how long the server took to start listening
}

// addr is the address of a target with one lock.
func (t *target) addr() netip.AddrPort { return t.addrs[0] }

// put starts servers in front of a service. They run until the measurement is over.
func (b *bench) put(ctx context.Context, f front, servers ...server) ([]*target, error) {
	var targets []*target
	for _, s := range servers {
		t, err := b.start(ctx, f, s)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// start runs a server and waits until it listens.
func (b *bench) start(ctx context.Context, f front, s server) (*target, error) {
	t := &target{server: s}
	if s.kind == noProxy {
		addr, err := netip.ParseAddrPort(f.service)
		t.addrs = []netip.AddrPort{addr}
		return t, err
	}
	addrs, err := addresses(f.locks)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	t.addrs = addrs
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config")
	command := []string{"haproxy", "-db", "-f", file}
	if s.kind == haproxy {
		t.config = s.haproxyConfig(f, texts, max(f.waiters, b.waiters())+1000)
	} else {
		if t.admin, err = freeAddr(); err != nil {
			return nil, err
		}
		t.config = s.caddyfile(f, texts, t.admin)
		caddy := b.caddy
		if s.before {
			caddy = b.before
		}
		command = []string{caddy, "run", "--adapter", "caddyfile", "--config", file}
	}
	if err := os.WriteFile(file, []byte(t.config), 0o600); err != nil {
		return nil, err
	}
	began := time.Now()
	if t.process, err = start(dir, "output", command...); err != nil {
		return nil, err
	}
	b.running = append(b.running, t)
	for _, addr := range []netip.AddrPort{addrs[0], addrs[len(addrs)-1]} {
		if err := t.listening(ctx, addr); err != nil {
			return nil, err
		}
	}
	t.started = time.Since(began)
	// The connections of listening must have gone, see errForgotten.
	return t, t.calm(ctx, 50*time.Millisecond)
}

// stopAll stops all servers that put and start have started.
func (b *bench) stopAll() {
	for _, t := range b.running {
		t.stop()
	}
	b.running = nil
}

// addresses returns n free loopback addresses. If n > 1 they have the same port.
func addresses(n int) ([]netip.AddrPort, error) {
	free, err := freeAddr()
	if err != nil {
		return nil, err
	}
	first, err := netip.ParseAddrPort(free)
	if err != nil || n == 1 {
		return []netip.AddrPort{first}, err
	}
	if n > 250*250 {
		return nil, fmt.Errorf("found %d locks, expected at most %d", n, 250*250)
	}
	addrs := make([]netip.AddrPort, n)
	for i := range addrs {
		ip := netip.AddrFrom4([4]byte{127, 1, byte(i / 250), byte(1 + i%250)})
		addrs[i] = netip.AddrPortFrom(ip, first.Port())
	}
	return addrs, nil
}

var (
	portsStart = rand.IntN(1 << 16)
	portsSeen  atomic.Int32
)

// freeAddr returns a free loopback address, a new one at each call. Its port is below the range for
// outgoing connections: a client could take a port of that range before the server listens.
func freeAddr() (string, error) {
	const lowest = 10_000
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return "", err
	}
	var clients int
	if _, err := fmt.Sscan(string(text), &clients); err != nil {
		return "", err
	}
	for range 100 {
		port := lowest + (portsStart+int(portsSeen.Add(1)))%max(1, clients-lowest)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		var ln net.Listener
		if ln, err = net.Listen("tcp", addr); err == nil {
			return addr, ln.Close()
		}
	}
	return "", err
}
