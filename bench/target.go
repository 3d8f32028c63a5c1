package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// target is something that clients connect to in order to reach the service.
type target struct {
	name     string
	addr     string
	*process // nil: it is the service itself
}

// bench is what all measurements share.
type bench struct {
	settings
	dir string // for configs and logs, removed in the end
}

// direct is the service with nothing in front of it: the floor of the cost.
func direct(service string) *target { return &target{name: "no proxy", addr: service} }

// haproxy starts HAProxy with a limit on the connections to the service.
func (b *bench) haproxy(ctx context.Context, service string, slots int) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return b.start(ctx, "haproxy", addr, haproxyConfig(addr, service, slots), func(config string) []string {
		return []string{"haproxy", "-db", "-f", config}
	})
}

func haproxyConfig(addr, service string, slots int) string {
	return fmt.Sprintf(`global
	no strict-limits
	maxconn 15000
defaults
	mode tcp
	timeout connect 1h
	timeout client 1h
	timeout server 1h
	timeout queue 1h
listen bench
	bind %s
	server service %s maxconn %d
`, addr, service, slots)
}

// caddyServer says how Caddy stands in front of the service.
type caddyServer struct {
	name string
	lock string // the tcplock handler, empty: none
	logs bool   // a line for each connection, as Caddy does if nobody says otherwise
}

// caddyL4 starts Caddy with caddy-l4's proxy, behind a lock or not.
func (b *bench) caddyL4(ctx context.Context, service string, s caddyServer) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return b.start(ctx, s.name, addr, caddyfile(addr, service, s), func(config string) []string {
		return []string{b.caddy, "run", "--adapter", "caddyfile", "--config", config}
	})
}

func caddyfile(addr, service string, s caddyServer) string {
	log := "log {\n\t\texclude layer4.handlers.tcplock.access\n\t}"
	if s.logs {
		log = ""
	}
	return fmt.Sprintf(`{
	admin off
	persist_config off
	%s
	layer4 {
		%s {
			route {
				%s
				proxy %s
			}
		}
	}
}
`, log, addr, s.lock, service)
}

// start runs a server with a config and waits until it listens.
func (b *bench) start(ctx context.Context, name, addr, config string, command func(config string) []string) (*target, error) {
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p, err := start(dir, "output", command(file)...)
	if err != nil {
		return nil, err
	}
	if err := p.listening(ctx, addr); err != nil {
		p.stop()
		return nil, err
	}
	return &target{name: name, addr: addr, process: p}, nil
}

func stopAll(targets []*target) {
	for _, t := range targets {
		if t.process != nil {
			t.stop()
		}
	}
}

// freeAddr is a loopback address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
