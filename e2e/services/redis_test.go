package services_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A redis with a limit of ten clients refuses some of fifty. Behind a lock of ten slots it
// refuses none, and counts each request once. The requests come from fifty clients that connect
// anew for each one, and from sixty redis-cli at once. Each redis-cli gets a number of its own.
func TestRedis(t *testing.T) {
	const slots, clients, requests, crowd = 10, 50, 1000, 60
	redis := func(addr, program string, args ...string) *caddytest.Program {
		host, port, _ := net.SplitHostPort(addr)
		return caddytest.Start(t, nil, caddytest.FindProgram(t, program), append([]string{"-h", host, "-p", port}, args...)...)
	}
	// -k 0: a connection for each request. Clients that keep their connections would wait for
	// each other forever: none leaves before the last request of all is answered.
	bench := func(addr string) (string, error) {
		return redis(addr, "redis-benchmark", "-q", "-k", "0", "-c", fmt.Sprint(clients), "-n", fmt.Sprint(requests), "INCR", "counter").Result(t)
	}
	db := startRedis(t, slots)
	ask := func(args ...string) (answer string) { // past the lock
		caddytest.Eventually(t, "redis has room for another client", func() bool {
			out, err := redis(db, "redis-cli", args...).Result(t)
			answer = strings.TrimSpace(out)
			return err == nil && !strings.HasPrefix(out, "ERR ")
		})
		return answer
	}

	if out, err := bench(db); err == nil || !strings.Contains(out, "max number of clients reached") {
		t.Fatalf("without the lock: error %v, expected clients that are turned away; so this proves nothing\n%s", err, out)
	}
	ask("CONFIG", "RESETSTAT")
	ask("SET", "counter", "0")

	lock := caddytest.LockServer(t, fmt.Sprintf("tcplock %d {\nname redis\n}", slots), db)
	if out, err := bench(lock); err != nil {
		t.Errorf("through the lock: %v\n%s", err, out)
	}
	var cli []*caddytest.Program
	for range crowd {
		cli = append(cli, redis(lock, "redis-cli", "INCR", "counter"))
	}
	numbers := make(map[string]bool)
	for _, client := range cli {
		out, err := client.Result(t)
		if err != nil {
			t.Errorf("redis-cli: %v\n%s", err, out)
		}
		numbers[out] = true
	}
	caddytest.InLine(t, "redis", 0, 0)
	if len(numbers) != crowd {
		t.Errorf("found %d different answers, expected %d: %v", len(numbers), crowd, numbers)
	}
	if n := ask("GET", "counter"); n != fmt.Sprint(requests+crowd) {
		t.Errorf("redis has counted to %s, expected %d", n, requests+crowd)
	}
	if stats := ask("INFO", "stats"); !strings.Contains(stats, "rejected_connections:0\r\n") {
		t.Errorf("found that redis has turned clients away, expected none:\n%s", stats)
	}
}

// startRedis starts a redis with a limit of clients, and returns its address.
func startRedis(t *testing.T, clients int) (addr string) {
	t.Helper()
	addr = caddytest.FreeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	caddytest.Start(t, nil, caddytest.FindProgram(t, "redis-server"), "--bind", host, "--port", port, "--maxclients", fmt.Sprint(clients),
		"--save", "", "--dir", t.TempDir()).Prints(t, "Ready to accept connections")
	return addr
}
