//go:build unix

package service

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// No process is started while something else listens at its address, however the process is to become
// ready.
func TestProcessBesideStranger(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	nothingLeft(t)
	ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
	addr, started := ln.Addr().String(), testkit.File(t)
	t.Run("", func(t *testing.T) { // ends when all in it have ended
		for name, c := range map[string]struct {
			service Service
			worker  string
		}{
			"at the worker's address": {Service{}, addr},
			"at the ready address":    {Service{Ready: addr}, testkit.NoService},
			"with a ready command":    {Service{ReadyCommand: []string{"true"}}, addr},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.service.Command, c.service.Args = "touch", []string{started}
				_, err := startProcess(&c.service, ID{"soffice", 1, c.worker}, zap.NewNop)
				if want := "something else listens on " + addr; err == nil || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("found %v, expected %s", err, want)
				}
				if _, err := os.Stat(started); err == nil {
					t.Error("the process was started")
				}
			})
		}
	})
}

// A process that ends before it is ready, or just after its probe, has failed to start. The error says
// what to do about it, as far as that can be known.
func TestProcessEndsEarly(t *testing.T) {
	nothingLeft(t)
	before := dial.ListenFor
	dial.ListenFor = 20 * time.Second
	t.Cleanup(func() { dial.ListenFor = before })
	start := func(script string) (p *osProcess, addr, flag string) {
		ln := testkit.Listen(t, "tcp", "127.0.0.1:0")
		addr, flag = ln.Addr().String(), filepath.Join(t.TempDir(), "flag")
		ln.Close()
		started, err := startProcess(shell(`while ! test -e "$1"; do sleep 0.01; done; `+script, flag), ID{"soffice", 1, addr}, zap.NewNop)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			started.Kill()
			<-started.Exited()
			started.Release()
		})
		return started.(*osProcess), addr, flag
	}
	end := func(p *osProcess, flag string) {
		if err := os.WriteFile(flag, nil, 0o600); err != nil {
			t.Error(err)
		}
		<-p.Exited()
	}
	expect := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("found %v, expected %s", err, want)
		}
	}

	p, _, flag := start("exit 3")
	go end(p, flag)
	expect(p.Ready(t.Context()), "it has ended before it was ready: exit status 3")

	// It has left a daemon that answers: this test.
	p, addr, flag := start("exit 0")
	ln := testkit.Listen(t, "tcp", addr)
	go greet(ln, nil)
	end(p, flag)
	expect(p.Ready(t.Context()), "it has ended with status 0, but "+addr+" answers: the service seems to have gone to the background")

	// The probe itself makes it end.
	p, addr, flag = start("exit 3")
	ln = testkit.Listen(t, "tcp", addr)
	go greet(ln, func() { end(p, flag) })
	expect(p.Ready(t.Context()), "it has ended right after the probe of its address: exit status 3; a server that ends after one connection needs ready exec")
}

// greet is a server that calls does for each connection, and then says hello.
func greet(ln net.Listener, does func()) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		if does != nil {
			does()
		}
		_, _ = io.WriteString(conn, "hello")
		conn.Close()
	}
}
