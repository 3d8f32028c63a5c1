// Package relay_test is about the way out on which tcplock itself connects to the service, where it differs
// from the one by proxy.
package relay_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

// config is a lock of so many slots in front of a service.
func config(addr string, slots int, options, service string) string {
	return caddytest.RouteConfig(addr, fmt.Sprintf("tcplock %d {\nto %s\nlinger 0\n%s\n}", slots, service, options))
}

// The service is at a TCP address, at a name, at a unix socket, or at an address from the environment.
func TestTo(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	socket := caddytest.Socket(t)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 5)
				n, _ := conn.Read(buf)
				_, _ = conn.Write(buf[:n])
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(svc.Addr)
	t.Setenv("RELAY_TEST_SERVICE", svc.Addr)
	for name, to := range map[string]string{"address": svc.Addr, "name": "localhost:" + port, "unix": "unix/" + socket, "environment": "{env.RELAY_TEST_SERVICE}"} {
		t.Run(name, func(t *testing.T) {
			addr := caddytest.FreeAddr(t)
			caddytest.Load(t, config(addr, 1, "", to))
			caddytest.LeakCheck(t)
			for range 3 {
				conn := caddytest.Dial(t, addr)
				caddytest.Send(t, conn, "hello")
				caddytest.Expect(t, conn, "hello")
				_ = conn.CloseWrite()
				caddytest.ExpectEOF(t, conn)
			}
			caddytest.InLine(t, "default", 0, 0)
		})
	}
}

// The service is down when clients come. They stand in line, and are served in order when it is up, with what
// they have sent: at most so many at once as there are slots. One that leaves the line is no matter.
func TestServiceComesLate(t *testing.T) {
	for _, slots := range []int{1, 3} {
		t.Run(fmt.Sprint(slots, " slots"), func(t *testing.T) {
			addr, service := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
			caddytest.Load(t, config(addr, slots, "half_closed drop", service))
			caddytest.LeakCheck(t)
			var clients []net.Conn
			for i := range 8 {
				clients = append(clients, caddytest.DialSend(t, addr, caddytest.Number(i)))
				caddytest.InLine(t, "default", 0, i+1)
			}
			for i, left := range []int{0, 4} {
				clients[left].Close()
				caddytest.InLine(t, "default", 0, 7-i)
			}
			if down := caddytest.Status(t, "default").Workers; len(down) != 1 || down[0] != (status.Worker{Address: service, State: status.WorkerOut}) {
				t.Errorf("found workers %+v, expected one for all slots that is down", down)
			}
			svc := caddytest.NewServiceAt(t, service, nil)
			var at []*net.TCPConn
			var got []string
			next := func() {
				conn := svc.Next(t)
				number := make([]byte, 3)
				_, _ = conn.Read(number)
				at, got = append(at, conn), append(got, string(number))
			}
			for range slots {
				next()
			}
			svc.NoneComes(t, "all slots are held")
			slices.Sort(got) // those that are let through at once come in any order
			for i := range 6 - slots {
				svc.Leave(at[i])
				next()
			}
			want := []string{"001", "002", "003", "005", "006", "007"}
			if !slices.Equal(got, want) {
				t.Errorf("found %v, expected %v", got, want)
			}
			for _, conn := range at[6-slots:] {
				svc.Leave(conn)
			}
			caddytest.InLine(t, "default", 0, 0)
			if s := caddytest.Status(t, "default"); s.Workers[0].State != status.WorkerUp || s.Connections["served"] != 6 || s.Connections["client_gone"] != 2 {
				t.Errorf("found %+v, expected the service up, 6 served and 2 gone", s)
			}
		})
	}
}

// The service never comes. A client is refused after its wait_timeout, and without one after 30 seconds (3
// here). A client that comes later has as much time of its own.
func TestServiceNeverComes(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const longest = 3 * time.Second
	caddytest.SetLongestOutage(longest)
	addr, service := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	options := "refuse {\ntest_tell_reason\n}"
	caddytest.Load(t, config(addr, 1, options, service))
	refused := make(chan time.Duration, 3)
	wait := func(reason string) {
		start := time.Now()
		conn := caddytest.Dial(t, addr)
		caddytest.Expect(t, conn, reason)
		refused <- time.Since(start)
	}
	expect := func(want time.Duration) {
		t.Helper()
		select {
		case took := <-refused:
			if took < want || took > want+2*outageLook {
				t.Errorf("refused after %s, expected %s", took, want)
			}
		case <-time.After(caddytest.Patience):
			t.Fatal("no client was refused")
		}
	}
	go wait(status.WorkerDown)
	caddytest.InLine(t, "default", 0, 1)
	time.Sleep(longest / 2)
	go wait(status.WorkerDown)
	caddytest.InLine(t, "default", 0, 2)
	expect(longest)
	caddytest.InLine(t, "default", 0, 1)
	expect(longest)
	caddytest.Load(t, config(addr, 1, "wait_timeout 1s\n"+options, service))
	go wait(status.WaitTimeout)
	expect(time.Second)
	if s := caddytest.Status(t, "default"); s.Connections[status.WorkerDown] != 2 || s.Connections[status.WaitTimeout] != 1 {
		t.Errorf("found %v, expected 2 worker_down and 1 wait_timeout", s.Connections)
	}
}

// outageLook is how often the lock looks whether waiters have waited for too long.
const outageLook = time.Second

// A lock that would be its own service is refused.
func TestLeadsToItself(t *testing.T) {
	addr := caddytest.FreeAddr(t)
	for _, listen := range []string{addr, "keep/" + addr} {
		err := caddytest.TryLoad(t, caddytest.RouteConfig(listen, "tcplock {\nto "+addr+"\n}"))
		if err == nil || !strings.Contains(err.Error(), "where the lock itself listens ("+addr+"), expected another address") {
			t.Errorf("on %s: found %v, expected it refused", listen, err)
		}
	}
}
