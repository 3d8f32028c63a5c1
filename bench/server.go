package main

import (
	"fmt"
	"strings"
)

// server describes a server in front of the service. The zero value is Caddy with tcplock, which
// listens on keep/ and connects to the service itself, with default settings but without the access log.
type server struct {
	name    string
	options string // more lines for tcplock
	logs    bool   // write a log line for each connection, which is Caddy's default
	before  bool   // run the older Caddy

	kind    kind
	threads int // of HAProxy; 0: one for each processor, its default
}

type kind int

const (
	lock      kind = iota
	withProxy      // tcplock with caddy-l4's proxy after it, on a plain address
	noLock         // caddy-l4's proxy alone
	noProxy        // the service itself
	haproxy
)

// The servers that are compared. HAProxy hands a single slot on faster with one thread than with
// several. So it runs both ways, and the goals are set against the faster one.
var (
	direct           = server{name: "no proxy", kind: noProxy}
	haproxyDefault   = server{name: "haproxy", kind: haproxy}
	haproxyOneThread = server{name: "haproxy, 1 thread", kind: haproxy, threads: 1}
	bareCaddy        = server{name: "caddy-l4 without a lock", kind: noLock}
	lockLinger0      = server{name: "tcplock, linger 0", options: "linger 0"}
	lockDefault      = server{name: "tcplock"}
	proxyLinger0     = server{name: "tcplock + proxy, linger 0", options: "linger 0", kind: withProxy}
	proxyDefault     = server{name: "tcplock + proxy", kind: withProxy}
	loggingLinger0   = server{name: "tcplock, linger 0, access log", options: "linger 0", logs: true}
	loggingDefault   = server{name: "tcplock, access log", logs: true}
)

// haproxies are the references for the other servers.
var haproxies = []string{haproxyDefault.name, haproxyOneThread.name}

// asBefore is the same server in the older Caddy.
func (s server) asBefore() server {
	s.name, s.before = strings.Replace(s.name, "tcplock", "tcplock before", 1), true
	return s
}

// withBefore adds each server with tcplock once more, in the older Caddy, if there is one.
func (b *bench) withBefore(servers ...server) (all []server) {
	for _, s := range servers {
		all = append(all, s)
		if b.before != "" && (s.kind == lock || s.kind == withProxy) {
			all = append(all, s.asBefore())
		}
	}
	return all
}

// front describes what a server must do: which service it is for, and with how many slots and locks.
type front struct {
	service string
	slots   int // of each lock
	locks   int // each has an address of its own
	waiters int // more than usual, if HAProxy must have room for them
}

// haproxyConfig limits the connections to the service as tcplock does. By default HAProxy writes no
// log.
func (s server) haproxyConfig(f front, addrs []string, clients int) string {
	var c strings.Builder
	fmt.Fprintf(&c, "global\n\tno strict-limits\n\tmaxconn %d\n", clients)
	if s.threads > 0 {
		fmt.Fprintf(&c, "\tnbthread %d\n", s.threads)
	}
	c.WriteString("defaults\n\tmode tcp\n\ttimeout connect 1h\n\ttimeout client 1h\n\ttimeout server 1h\n\ttimeout queue 1h\n")
	for i, addr := range addrs {
		fmt.Fprintf(&c, "listen lock%d\n\tbind %s\n\tserver service %s maxconn %d\n", i, addr, f.service, f.slots)
	}
	return c.String()
}

func (s server) caddyfile(f front, addrs []string, admin string) string {
	var c strings.Builder
	fmt.Fprintf(&c, "{\n\tadmin %s\n\tpersist_config off\n", admin)
	if !s.logs {
		c.WriteString("\tlog {\n\t\texclude layer4.handlers.tcplock.access\n\t}\n")
	}
	c.WriteString("\tlayer4 {\n")
	for i, addr := range addrs {
		options := s.options
		if s.kind == lock {
			addr, options = "keep/"+addr, "to "+f.service+"\n\t\t\t\t\t"+options
		}
		fmt.Fprintf(&c, "\t\t%s {\n\t\t\troute {\n", addr)
		if s.kind != noLock {
			fmt.Fprintf(&c, "\t\t\t\ttcplock %d {\n\t\t\t\t\tname lock%d\n\t\t\t\t\t%s\n\t\t\t\t}\n", f.slots, i, options)
		}
		if s.kind != lock {
			fmt.Fprintf(&c, "\t\t\t\tproxy %s\n", f.service)
		}
		c.WriteString("\t\t\t}\n\t\t}\n")
	}
	c.WriteString("\t}\n}\n")
	return c.String()
}
