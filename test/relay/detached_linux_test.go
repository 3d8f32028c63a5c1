package relay_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// inHandle is how many connections have a goroutine of caddy-l4 in tcplock: those that are not detached.
func inHandle() int {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return strings.Count(string(stacks), "caddy-tcplock.(*Handler).Handle(")
}

// place is where a lock stands.
type place struct {
	name     string
	listen   string // "%s" stands for the address
	route    string // "%s" stands for the lock
	detaches bool
	keeps    bool                                     // a client that closes while it waits stays in line: the lock cannot see that, or it has sent a job
	come     func(t *testing.T, addr string) net.Conn // nil: a client connects, and that is all
}

var places = []place{
	{"tcp", "%s", "route {\n%s\n}", true, false, nil},
	{"keep", "keep/%s", "route {\n%s\n}", true, false, nil},
	{"unix", "unix/%s", "route {\n%s\n}", true, false, nil},
	{"vars", "%s", "route {\nvars a b\n%s\n}", true, false, nil},
	{"matcher without bytes", "%s", "@local remote_ip 127.0.0.1\nroute @local {\n%s\n}", true, false, nil},
	{"subroute", "%s", "route {\nvars a b\nsubroute {\nroute {\n%s\n}\n}\n}", true, false, nil},
	{"second route", "%s", "@other remote_ip 192.0.2.1\nroute @other {\necho\n}\nroute {\n%s\n}", true, false, nil},
	{"unknown handler", "keep/%s", "route {\ntest_fragile\n%s\n}", false, false, nil},
	{"unknown handler around", "%s", "route {\ntest_fragile\nsubroute {\nroute {\n%s\n}\n}\n}", false, false, nil},
	{"behind a lock", "keep/%s", "route {\ntcplock 10 {\nname outer\n}\n%s\n}", false, false, nil},
	{"behind a lock around", "%s", "route {\ntcplock 10 {\nname outer\n}\nsubroute {\nroute {\n%s\n}\n}\n}", false, false, nil},
	{"proxy_protocol", "keep/%s", "route {\n" + caddytest.AllowProxy + "\n%s\n}", false, false, func(t *testing.T, addr string) net.Conn {
		return caddytest.DialSend(t, addr, caddytest.ProxyHeader)
	}},
	{"tls", "keep/%s", "route {\ntls\n%s\n}", false, false, func(t *testing.T, addr string) net.Conn {
		secure := tls.Client(caddytest.Dial(t, addr), &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		return secure
	}},
	{"matcher with bytes", "keep/%s", "@number regexp [0-9]+ 3\nroute @number {\n%s\n}", false, true, func(t *testing.T, addr string) net.Conn {
		return caddytest.DialSend(t, addr, "123")
	}},
	{"matcher of another route", "%s", "@number regexp [0-9]+ 3\nroute @number {\necho\n}\nroute {\n%s\n}", false, true, func(t *testing.T, addr string) net.Conn {
		return caddytest.DialSend(t, addr, "abc")
	}},
}

// A connection detaches where no other handler needs it any more, and nowhere else. It is served in any case.
func TestWhereConnectionsDetach(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, p.test)
	}
}

// The same behind throttle, where the lock looks for 5 seconds whether the client has gone.
func TestNoneDetachesBehindThrottle(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	place{"throttle", "keep/%s", "route {\n" + caddytest.Slowdown + "\n%s\n}", false, true, nil}.test(t)
}

func (p place) test(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	if p.come == nil {
		p.come = func(t *testing.T, addr string) net.Conn { return caddytest.Dial(t, addr) }
	}
	if strings.HasPrefix(p.listen, "unix/") {
		addr = caddytest.Socket(t)
		p.come = comeByUnix
	}
	lock := "tcplock {\nto " + svc.Addr + "\nlinger 0\n}"
	cfg := caddytest.Adapt(t, caddytest.Global(fmt.Sprintf("layer4 {\n"+p.listen+" {\n"+p.route+"\n}\n}", addr, lock)))
	if p.name == "tls" {
		cfg = caddytest.WithCertificate(t, cfg)
	}
	if err := caddytest.TryLoadJSON(t, cfg); err != nil {
		t.Fatal(err)
	}
	caddytest.LeakCheck(t)
	var clients []net.Conn
	for i := range 3 {
		clients = append(clients, p.come(t, addr))
		caddytest.InLine(t, "default", 1, i)
	}
	first := svc.Next(t)
	if p.detaches {
		caddytest.Eventually(t, "no connection has a goroutine of caddy-l4", func() bool { return inHandle() == 0 })
	} else if n := inHandle(); n < len(clients) {
		t.Errorf("found %d connections that are not detached, expected all of %d", n, len(clients))
	}
	gone := 1
	if p.keeps {
		gone = 0
		svc.Leave(first)
		clients[0].Close()
		first = svc.Next(t)
	} else {
		clients[1].Close()
		caddytest.InLine(t, "default", 1, 1)
	}
	svc.Leave(first)
	clients[0].Close()
	clients[1].Close()
	second := svc.Next(t)
	if strings.Contains(p.route, "regexp") {
		_, _ = io.ReadFull(second, make([]byte, 3))
	}
	caddytest.Send(t, clients[2], "hello")
	caddytest.Expect(t, second, "hello")
	caddytest.Send(t, second, "answer")
	svc.Leave(second)
	caddytest.Expect(t, clients[2], "answer")
	caddytest.ExpectEOF(t, clients[2])
	for _, client := range clients {
		client.Close()
	}
	caddytest.InLine(t, "default", 0, 0)
	all := caddytest.Status(t, "default").Connections
	if reached := all[status.Served] + all[status.ServiceError]; all[status.ClientGone] != uint64(gone) || reached != uint64(3-gone) {
		t.Errorf("found %v, expected %d gone and the others served", all, gone)
	}
}

func comeByUnix(t *testing.T, addr string) net.Conn {
	conn, err := net.Dial("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	return conn
}

// A matcher that reads no bytes keeps out those that it does not match, also where the lock could have all.
func TestMatcherKeepsOut(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	lock := "tcplock {\nto " + svc.Addr + "\n}"
	for _, routes := range []string{"@other remote_ip 192.0.2.1\nroute @other {\n" + lock + "\n}", "@none not remote_ip 127.0.0.1\nroute @none {\n" + lock + "\n}"} {
		caddytest.Load(t, caddytest.Global("layer4 {\nkeep/"+addr+" {\n"+routes+"\n}\n}"))
		caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
	}
	if _, _, total := svc.Counts(); total > 0 {
		t.Errorf("found %d connections at the service, expected none", total)
	}
}

// A lock detaches no connection that goes on to another handler, since Handle must call that.
func TestNoneDetachesBeforeProxy(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.RouteConfig("keep/"+addr, "tcplock {\nlinger 0\n}\nproxy "+svc.Addr))
	caddytest.Fill(t, addr, "default", 1, 2)
	if n := inHandle(); n != 3 {
		t.Errorf("found %d connections that are not detached, expected 3", n)
	}
	for range 3 {
		svc.Leave(svc.Next(t))
	}
	caddytest.InLine(t, "default", 0, 0)
}

// A thousand waiters have no goroutine and one descriptor each. The budget counts as many.
func TestWaitersAreCheap(t *testing.T) {
	const n = 1000
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.RouteConfig("keep/"+addr, "tcplock {\nto "+svc.Addr+"\nlinger 0\nwait_timeout 1h\n}"))
	caddytest.LeakCheck(t)
	caddytest.Fill(t, addr, "default", 1, 1) // the watcher, and the holder
	caddytest.Eventually(t, "none has a goroutine of caddy-l4", func() bool { return inHandle() == 0 })
	goroutines, descriptors, counted := runtime.NumGoroutine(), openDescriptors(t), caddytest.Counted()
	var clients []net.Conn
	for range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, conn)
	}
	caddytest.InLine(t, "default", 1, 1+n)
	caddytest.Eventually(t, "no waiter has a goroutine", func() bool { return runtime.NumGoroutine() <= goroutines })
	if more := openDescriptors(t) - descriptors; more != 2*n { // one is the client's own
		t.Errorf("found %d more descriptors for %d clients and as many waiters, expected %d", more, n, 2*n)
	}
	if more := caddytest.Counted() - counted; more != n {
		t.Errorf("found %d more in the budget, expected %d", more, n)
	}
	for _, conn := range clients {
		conn.Close()
	}
	caddytest.InLine(t, "default", 1, 1)
	for range 2 {
		svc.Leave(svc.Next(t))
	}
	caddytest.InLine(t, "default", 0, 0)
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A client that takes a long answer slowly, and then speaks for the first time, is heard.
func TestClientSpeaksAfterLongAnswer(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", svc.Addr))
	caddytest.LeakCheck(t)
	client := caddytest.Dial(t, addr)
	conn := svc.Next(t)
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	answer := strings.Repeat(string(streams), 10) // more than the sockets on the way hold
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		caddytest.Send(t, conn, answer)
	}()
	caddytest.Expect(t, client, answer)
	<-sent
	caddytest.Send(t, client, "hello")
	caddytest.Expect(t, conn, "hello")
	svc.Leave(conn)
	client.Close()
	caddytest.InLine(t, "default", 0, 0)
}

// A client has sent more than a service takes that sends its answer first, and reads then. The answer comes, as it
// does if the client is connected to the service itself.
func TestServiceAnswersBeforeItReads(t *testing.T) {
	listen := net.ListenConfig{Control: func(_, _ string, socket syscall.RawConn) error {
		setBuffers(socket, true)
		return nil
	}}
	ln, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", ln.Addr().String()))
	caddytest.LeakCheck(t)
	next := func() net.Conn {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
		return conn
	}
	caddytest.Dial(t, addr)
	first := next()
	job, answer := string(streams[:100_000]), string(streams[:3_000_000])
	client := caddytest.DialSend(t, addr, job)
	caddytest.InLine(t, "default", 1, 1)
	first.Close()
	at := next()
	served := make(chan struct{})
	go func() {
		defer close(served)
		caddytest.Send(t, at, answer)
		caddytest.Expect(t, at, job)
		at.Close()
	}()
	caddytest.Expect(t, client, answer)
	<-served
	caddytest.ExpectEOF(t, client)
	client.Close()
	caddytest.InLine(t, "default", 0, 0)
}
