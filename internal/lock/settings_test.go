package lock

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/queue"
	"go.uber.org/zap"
)

// The workers are those that the environment named when the config was loaded. Later changes of the
// environment have no effect.
func TestWorkersAreReadOnce(t *testing.T) {
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TCPLOCK_TEST_PORTS", "8101-8102")
	c := &Config{name: "pool"}
	settings := Settings{Workers: []string{"127.0.0.1:{env.TCPLOCK_TEST_PORTS}"}}
	if err := c.define(ctx, settings, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	for _, later := range []string{"8103", ""} {
		t.Setenv("TCPLOCK_TEST_PORTS", later)
		if got := c.settings.addresses(); !slices.Equal(got, []string{"127.0.0.1:8101", "127.0.0.1:8102"}) {
			t.Errorf("found %q, expected the two of the beginning", got)
		}
	}
}

// One client is an IPv4 address, however it is written, or the /64 of an IPv6 address. A client
// without an IP address has no bounds.
func TestClientOf(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1000} }
	groups := [][]net.Addr{
		{&net.UnixAddr{Name: "@", Net: "unix"}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)}, &net.IPAddr{}},
		{tcp("192.0.2.1"), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 1}, tcp("::ffff:192.0.2.1")},
		{tcp("192.0.2.2")},
		{tcp("0.0.0.1")},
		{tcp("127.0.0.1")},
		{tcp("::1"), tcp("::2")},
		{tcp("2001:db8::1"), tcp("2001:db8:0:0:ffff:ffff:ffff:ffff"), &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Zone: "eth0"}},
		{tcp("2001:db8:0:1::1")},
		{tcp("fe80::1")},
	}
	seen := make(map[queue.ClientKey]net.Addr)
	for i, group := range groups {
		key := clientOf(group[0])
		if (key == 0) != (i == 0) {
			t.Errorf("%v: got %#x, expected 0 only for those without bounds", group[0], key)
		}
		if other := seen[key]; other != nil {
			t.Errorf("%v and %v count as one, expected two", group[0], other)
		}
		seen[key] = group[0]
		for _, addr := range group[1:] {
			if got := clientOf(addr); got != key {
				t.Errorf("%v: got %#x, expected %#x as for %v", addr, got, key, group[0])
			}
		}
	}
	clientOf(new(net.TCPAddr)) // no address at all must not panic
}

// Workers are addresses, port ranges and unix sockets, with global placeholders, each once.
func TestExpandWorkers(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_HOST", "worker")
	const expected = "expected host:port, host:port-port or unix//path"
	for _, c := range []struct{ workers, want string }{
		{"", "[]"},
		{"localhost:8101", "[localhost:8101]"},
		{"localhost:8101-8103", "[localhost:8101 localhost:8102 localhost:8103]"},
		{"localhost:8101-8101", "[localhost:8101]"},
		{"b:2 a:1-2 b:1", "[b:2 a:1 a:2 b:1]"},
		{"[::1]:8101-8102", "[[::1]:8101 [::1]:8102]"},
		{"tcp/localhost:8101", "[localhost:8101]"},
		{":8101", "[:8101]"},
		{"unix//run/a.sock unix//run/b.sock", "[unix//run/a.sock unix//run/b.sock]"},
		{"{env.TCPLOCK_TEST_HOST}:8101-8102", "[worker:8101 worker:8102]"},

		{"{env.TCPLOCK_TEST_NONE}:8101", "TCPLOCK_TEST_NONE"},
		{"{l4.tcplock.slot}:8101", "l4.tcplock.slot"},
		{"a:1 a:1", "found a:1 a second time, expected each once"},
		{"a:1-3 a:3", "found a:3 a second time"},
		{"a:1 tcp/a:1", "found a:1 a second time"},
		{"unix//a unix//a", "found unix//a a second time"},
		{"localhost", expected},
		{"localhost:0", expected},
		{"localhost:0-2", expected},
		{"localhost:http", expected},
		{"localhost:65536", expected},
		{"localhost:8103-8101", expected},
		{"localhost:8101-", expected},
		{"udp/localhost:8101", expected},
		{"tcp4/localhost:8101", expected},
		{"unix/", expected},
		{"unix//a|0200", expected},
		{"unixgram//a", expected},
		{"fd/3", expected},
	} {
		s := Settings{Workers: strings.Fields(c.workers)}
		addresses, err := s.expand()
		got := fmt.Sprint(addresses)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: got %s, want %s", c.workers, got, c.want)
		}
	}
	if _, err := (&Settings{Workers: []string{""}}).expand(); err == nil {
		t.Error("an empty address: found no error, expected one")
	}
}

// The time to read and activate very many workers grows with their number, not with its square.
func TestManyWorkers(t *testing.T) {
	start := time.Now()
	s := Settings{Workers: []string{"a:1-65535", "b:1-65535"}}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	l := &Lock{queue: queue.New(queue.Bounds{MaxWaiting: queue.Unlimited})}
	l.pool.Lock = l
	workers := l.pool.Assign(s.addresses(), nil)
	slices.Reverse(s.Workers)
	workers = l.pool.Assign(s.addresses(), workers)
	if len(workers) != 2*65535 || workers[0].Address != "a:1" {
		t.Errorf("%d workers, the first at %s, expected 131070, and a:1", len(workers), workers[0].Address)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s, expected less than 20s: it does not grow with the square", took)
	}
}
