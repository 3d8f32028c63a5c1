// Package upstream_test reproduces faults of Caddy and caddy-l4 that tcplock works around. docs/upstream.md
// explains each. It imports nothing of tcplock, so that a test can be sent to those projects as it is.
//
// A test fails when its fault is gone, and says what tcplock no longer needs.
package upstream_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/mholt/caddy-l4/layer4"
	_ "github.com/mholt/caddy-l4/modules/l4echo"
	_ "github.com/mholt/caddy-l4/modules/l4proxy"
	_ "github.com/mholt/caddy-l4/modules/l4proxyprotocol"
)

const patience = 10 * time.Second

// mended fails the test: a new version of Caddy or caddy-l4 does not have the fault. more is what tcplock
// has because of it.
func mended(t *testing.T, project, found string, more ...string) {
	t.Helper()
	toDelete := strings.Join(append([]string{"this test", "its part of docs/upstream.md"}, more...), "; ")
	t.Errorf("found %s: %s mended this. Delete %s", found, project, toDelete)
}

// load starts Caddy, or reloads it, with the servers of layer4.
func load(t *testing.T, servers string) error {
	t.Helper()
	caddyfile := "{\nadmin off\npersist_config off\nlayer4 {\n" + servers + "\n}\n}\n"
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, caddyfile)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return caddy.Load(config, true)
}

func mustLoad(t *testing.T, servers string) {
	t.Helper()
	if err := load(t, servers); err != nil {
		t.Fatal(err)
	}
}

// freeAddr returns an address on which nothing listens. Its port is none that the system gives to
// clients, nor one of the tests of other packages.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 5000+rand.IntN(5000))
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("found no port that is free")
	return ""
}

// service answers each connection with the first line that it sends, and closes it. It returns its
// address and the lines.
func service(t *testing.T) (addr string, lines chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	lines = make(chan string, 1000)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, _ := bufio.NewReader(conn).ReadString('\n')
				lines <- line
				_, _ = io.WriteString(conn, line)
			}()
		}
	}()
	return ln.Addr().String(), lines
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

const line = "hello\n"

// answered sends a line and reports whether it comes back before a time is over.
func answered(conn net.Conn, within time.Duration) bool {
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := io.WriteString(conn, line); err != nil {
		return false
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && got == line
}

func TestMain(m *testing.M) {
	if addr := os.Getenv(panicEnv); addr != "" {
		servePanic(addr)
		return
	}
	os.Exit(m.Run())
}
