package line_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// fronted is three Caddys, with the configs of docs/deploy.md: one has the lock, two pass their clients
// on to it.
type fronted struct {
	svc    *caddytest.Service
	lock   string // the address of the Caddy with the lock
	fronts [2]string
	caddys [2]*caddytest.Program // the fronts
	admin  caddytest.Admin       // of the Caddy with the lock
}

// newFronted starts the Caddys. options are more options of the lock.
func newFronted(t *testing.T, slots, options string) *fronted {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(caddytest.Root, "docs/deploy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Several Caddys\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if len(blocks) != 2 {
		t.Fatalf("found %d configs under \"Several Caddys\" in docs/deploy.md, expected that of the lock and that of a front", len(blocks))
	}
	f := &fronted{svc: caddytest.NewService(t, nil), lock: caddytest.FreeAddr(t), admin: caddytest.Admin{Addr: caddytest.FreeAddr(t)}}
	start := func(block int, admin string, replace ...string) *caddytest.Program {
		config := strings.Replace(blocks[block][1], "{\n", "{\nadmin "+admin+"\npersist_config off\ngrace_period 1s\n", 1)
		for i := 0; i < len(replace); i += 2 {
			if !strings.Contains(config, replace[i]) {
				t.Fatalf("found no %q in the config, expected it:\n%s", replace[i], config)
			}
			config = strings.ReplaceAll(config, replace[i], replace[i+1])
		}
		return caddytest.StartCaddy(t, 0, config)
	}
	start(0, f.admin.Addr, "10.0.0.5:9000", f.lock, "10.0.0.11 10.0.0.12", "127.0.0.1", "localhost:8100", f.svc.Addr,
		"tcplock {", "tcplock "+slots+" {\nlinger 0\n"+options)
	for i := range f.fronts {
		f.fronts[i] = caddytest.FreeAddr(t)
		f.caddys[i] = start(1, "off", "keep/:9000", "keep/"+f.fronts[i], "10.0.0.5:9000", f.lock)
	}
	return f
}

// comes connects a client with this address to a front. The client sends its number.
func (f *fronted) comes(t *testing.T, i int, ip string, front int) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	conn, err := d.Dial("tcp", f.fronts[front])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	caddytest.Send(t, conn, caddytest.Number(i))
	return conn
}

// has waits until the lock has so many holders and waiters.
func (f *fronted) has(t *testing.T, held, waiting int) (l status.Lock) {
	t.Helper()
	caddytest.Eventually(t, "the lock has its holders and waiters", func() bool {
		l = f.admin.Lock(t, "app")
		return l.Held == held && l.Waiting == waiting
	})
	return l
}

// wantClients checks that these clients are the holders, or the waiters in order.
func wantClients(t *testing.T, what string, found []status.Connection, expected ...net.Conn) {
	t.Helper()
	var got, want []string
	for _, c := range found {
		got = append(got, c.Client)
	}
	for _, c := range expected {
		want = append(want, c.LocalAddr().String())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("found %s %v, expected the clients %v", what, got, want)
	}
}

// Clients come by two Caddys in turn. The lock behind both admits as many as it has slots, in the order
// in which they came, and shows their own addresses. A client that leaves the line, or whose Caddy ends,
// is gone.
func TestOneLockBehindTwoCaddys(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	f := newFronted(t, "2", "")
	var clients []net.Conn
	for i := range 8 {
		clients = append(clients, f.comes(t, i, fmt.Sprint("127.0.0.", 100+i), i%2))
		f.has(t, min(i+1, 2), max(0, i-1))
	}
	served := []*net.TCPConn{f.svc.Gets(t, 0), f.svc.Gets(t, 1)}
	f.svc.NoneComes(t, "both slots have a holder")
	l := f.has(t, 2, 6)
	wantClients(t, "holders", l.Holders, clients[:2]...)
	wantClients(t, "waiters", l.Waiters, clients[2:]...)

	clients[3].Close()
	f.has(t, 2, 5)
	f.svc.Leave(served[0])
	next := f.svc.Gets(t, 2)
	caddytest.ExpectEOF(t, clients[0])
	f.svc.Leave(next)
	next = f.svc.Gets(t, 4)
	caddytest.Send(t, next, "hello")
	caddytest.Expect(t, clients[4], "hello")

	f.caddys[0].Stop(t) // with clients 4 and 6
	f.svc.Leave(next)
	next = f.svc.Gets(t, 5)
	l = f.has(t, 2, 1)
	wantClients(t, "waiters", l.Waiters, clients[7])
	f.svc.Leave(next)
	f.svc.Leave(f.svc.Gets(t, 7))
	f.svc.Leave(served[1])
	f.has(t, 0, 0)
	if _, most, total := f.svc.Counts(); most != 2 || total != 6 {
		t.Errorf("the service had %d connections, up to %d at once, expected 6 and 2", total, most)
	}
}

// A client that has its share by one Caddy waits at the other one too. Another client does not wait for it.
func TestFairShareBehindTwoCaddys(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	f := newFronted(t, "2", "max_per_client 1")
	f.comes(t, 0, "127.0.0.21", 0)
	first := f.svc.Gets(t, 0)
	f.comes(t, 1, "127.0.0.21", 1)
	f.has(t, 1, 1)
	f.comes(t, 2, "127.0.0.22", 1)
	other := f.svc.Gets(t, 2)
	f.has(t, 2, 1)
	f.svc.Leave(other)
	f.svc.NoneComes(t, "the client in line has its share")
	f.svc.Leave(first)
	f.svc.Leave(f.svc.Gets(t, 1))
}

// The lock takes no connection of any other machine, whatever PROXY header it sends.
func TestOnlyFrontsReachLock(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	f := newFronted(t, "1", "")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	stranger, err := d.Dial("tcp", f.lock)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_ = stranger.SetDeadline(time.Now().Add(caddytest.Patience))
	caddytest.Send(t, stranger, caddytest.ProxyHeader+caddytest.Number(0))
	caddytest.ExpectClosed(t, stranger)
	f.comes(t, 1, "127.0.0.21", 0)
	f.svc.Leave(f.svc.Gets(t, 1))
}
