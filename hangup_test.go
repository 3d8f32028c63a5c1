package tcplock_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// way is what stands before tcplock in its route, and how a client comes through it.
type way struct {
	name     string
	matcher  string // of the route
	handlers string // before tcplock
	before   string // what a client sends first for that, in one segment with its data
	seen     bool   // the service gets that as well
	tls      bool   // the client speaks TLS, after that
}

var ways = []way{
	{name: "plain"},
	{name: "tls", handlers: "tls", tls: true},
	{name: "proxy_protocol", handlers: "proxy_protocol {\nallow 127.0.0.1/32\n}", before: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 9100\r\n"},
	{name: "proxy_protocol and tls", handlers: "proxy_protocol {\nallow 127.0.0.1/32\n}\ntls", before: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 9100\r\n", tls: true},
	{name: "matcher", matcher: "@http http\nroute @http", before: "PUT /job HTTP/1.0\r\n\r\n", seen: true},
}

// serve starts Caddy with a lock at the end of the way and returns its address.
func (w way) serve(t *testing.T, lock, service string) string {
	t.Helper()
	addr := freeAddr(t)
	route := w.matcher
	if route == "" {
		route = "route"
	}
	cfg := adapt(t, global(fmt.Sprintf("layer4 {\n%s {\n%s {\n%s\n%s\nproxy %s\n}\n}\n}", addr, route, w.handlers, lock, service)))
	if w.tls {
		cfg = withCertificate(t, cfg)
	}
	if err := tryLoadJSON(t, cfg); err != nil {
		t.Fatal(err)
	}
	return addr
}

// client is a connection that has come by a way.
type client struct {
	net.Conn
	tcp *net.TCPConn // the same, unless the way is TLS
}

// come connects a client and sends data, which the service will get.
func (w way) come(t *testing.T, addr, data string) *client {
	t.Helper()
	tcp := dial(t, addr)
	c := &client{Conn: tcp, tcp: tcp}
	first := w.before + data
	if w.tls {
		send(t, tcp, w.before)
		secure := tls.Client(tcp, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		c.Conn, first = secure, data
	}
	send(t, c, first)
	return c
}

// closeWrite says that nothing more will come, in TLS by an alert alone.
func (c *client) closeWrite() {
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// end closes the sending side of the socket as well. The receiving side stays open: what
// the client has not read yet, as a TLS session ticket, does not make a reset of this,
// as it does of a close.
func (c *client) end() {
	c.closeWrite()
	_ = c.tcp.CloseWrite()
}

// reset breaks the connection.
func (c *client) reset() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// Clients that leave the line for good never reach the service. They leave it at once,
// at its head, in its middle and at its end, while the slot stays held; those that stay
// are served in their order. It is so whatever stands before tcplock.
func TestWhoLeavesTheLineIsGone(t *testing.T) {
	for _, kind := range []struct {
		name    string
		options string
		data    string // what the client sends when it comes
		leave   func(t *testing.T, c *client)
	}{
		{name: "reset", leave: func(_ *testing.T, c *client) { c.reset() }},
		{name: "reset after data", data: "job", leave: func(_ *testing.T, c *client) { c.reset() }},
		{name: "close with nothing sent", leave: func(_ *testing.T, c *client) { c.Close() }},
		{name: "end with nothing sent", leave: func(_ *testing.T, c *client) { c.end() }},
		{name: "close after data, drop", data: "job", options: "half_closed drop", leave: func(_ *testing.T, c *client) { c.Close() }},
		{name: "end after data, drop", data: "job", options: "half_closed drop", leave: func(_ *testing.T, c *client) { c.end() }},
		{name: "end after data, then reset", data: "job", leave: func(t *testing.T, c *client) {
			c.end()
			lineStays(t)
			c.reset()
		}},
	} {
		for _, w := range ways {
			if w.seen && kind.data == "" {
				continue // without data no client comes this way
			}
			t.Run(w.name+"/"+kind.name, func(t *testing.T) {
				svc := newService(t, nil)
				addr := w.serve(t, "tcplock {\nlinger 0\n"+kind.options+"\n}", svc.addr)
				leakCheck(t)
				w.come(t, addr, "holder")
				holder := svc.next(t)
				var line []*client
				for i := range 5 {
					data := number(i)
					if i%2 == 0 {
						data = kind.data
					}
					line = append(line, w.come(t, addr, data))
					inLine(t, "default", 1, i+1)
				}
				for left, i := range []int{2, 4, 0} { // middle, end, head
					kind.leave(t, line[i])
					inLine(t, "default", 1, 4-left)
				}
				for _, i := range []int{1, 3} {
					svc.leave(holder)
					holder = svc.next(t)
					expect(t, holder, w.passed()+number(i))
				}
				svc.leave(holder)
				inLine(t, "default", 0, 0)
				if _, _, total := svc.counts(); total != 3 {
					t.Errorf("%d connections reached the service, expected those 3 of clients that stayed", total)
				}
			})
		}
	}
}

// passed is what the service gets of what a client sends for the way.
func (w way) passed() string {
	if w.seen {
		return w.before
	}
	return ""
}

// Thirty print clients send their job and half-close while they stand in line, jobs from
// 1 KB to 2 MB, more than the sockets hold. All arrive whole and in order, and each
// client gets its answer. It is so whatever stands before tcplock.
func TestHalfClosedJobs(t *testing.T) {
	const jobs = 30
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			open := make(chan struct{})
			printed := make(chan []byte, jobs)
			svc := newService(t, func(conn *net.TCPConn) {
				<-open
				job, err := io.ReadAll(conn)
				if err != nil {
					t.Error(err)
				}
				printed <- job
				fmt.Fprintf(conn, "printed %d bytes", len(job))
			})
			openOnce := sync.OnceFunc(func() { close(open) })
			t.Cleanup(openOnce)
			addr := w.serve(t, "tcplock", svc.addr)
			leakCheck(t)

			want := make([][]byte, jobs)
			var clients, sent sync.WaitGroup
			for i := range jobs {
				job := make([]byte, 1<<10<<(i*11/(jobs-1)))
				_, _ = mathrand.NewChaCha8([32]byte{byte(i)}).Read(job)
				want[i] = append([]byte(w.passed()), job...)
				c := w.come(t, addr, string(job[:512]))
				inLine(t, "default", 1, i)
				whole := len(job) <= 64<<10 // the sockets hold it
				if whole {
					sent.Add(1)
				}
				clients.Go(func() {
					send(t, c, string(job[512:]))
					c.closeWrite()
					if whole {
						sent.Done()
					}
					expect(t, c, fmt.Sprintf("printed %d bytes", len(want[i])))
					expectEOF(t, c)
				})
			}
			sent.Wait()
			lineStays(t)
			openOnce()
			clients.Wait()
			inLine(t, "default", 0, 0)
			for i := range jobs {
				if job := <-printed; !bytes.Equal(job, want[i]) {
					t.Errorf("printed %d bytes as number %d, expected the %d bytes of job %d", len(job), i, len(want[i]), i)
				}
			}
		})
	}
}

// lineStays makes sure that for a moment nobody leaves the line, or joins it.
func lineStays(t *testing.T) {
	t.Helper()
	_, _, before, _ := tcplock.LockStats("default")
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, _, waiting, _ := tcplock.LockStats("default"); waiting != before {
			t.Fatalf("%d in line, expected %d as before", waiting, before)
		}
	}
}

// A client that has sent its job and gone altogether, without a wait for an answer, has
// its job printed whole, as it would have without a lock.
func TestJobOfClientThatHasGone(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, "tcplock {\nlinger 0\n}", svc.addr)
	leakCheck(t)
	dial(t, addr)
	holder := svc.next(t)
	for i := range 5 {
		c := dial(t, addr)
		send(t, c, number(i))
		c.Close()
		inLine(t, "default", 1, i+1)
	}
	lineStays(t)
	for i := range 5 {
		svc.leave(holder)
		holder = svc.next(t)
		expect(t, holder, number(i))
		expectEOF(t, holder)
	}
	svc.leave(holder)
	inLine(t, "default", 0, 0)
}

// Twenty clients send as much as their sockets take while they stand in line. It stays
// in the sockets: the process does not grow. When their turn comes all of it arrives.
func TestFloodStaysInSockets(t *testing.T) {
	const flooders = 20
	open := make(chan struct{})
	svc := newService(t, func(conn *net.TCPConn) {
		<-open
		sum := crc32.NewIEEE()
		n, _ := io.Copy(sum, conn)
		fmt.Fprintf(conn, "%d bytes %08x", n, sum.Sum32())
	})
	openOnce := sync.OnceFunc(func() { close(open) })
	t.Cleanup(openOnce)
	addr := lockServer(t, "tcplock", svc.addr)
	leakCheck(t)
	holder := dial(t, addr)
	inLine(t, "default", 1, 0)
	var conns []*net.TCPConn
	for i := range flooders {
		conns = append(conns, dial(t, addr))
		inLine(t, "default", 1, i+1)
	}
	data := make([]byte, 1<<16+1)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(data)

	before := memory()
	var flooded int64
	var answers []string
	for _, conn := range conns {
		n, sum := flood(conn, data)
		flooded += n
		answers = append(answers, fmt.Sprintf("%d bytes %08x", n, sum))
	}
	if grown := memory() - before; flooded < flooders<<17 || grown*10 > flooded {
		t.Errorf("memory has grown by %d bytes for %d bytes from %d clients, expected at least 128 KiB from each and no growth", grown, flooded, flooders)
	}

	openOnce()
	holder.Close()
	for i, conn := range conns {
		_ = conn.CloseWrite()
		expect(t, conn, answers[i])
		expectEOF(t, conn)
	}
}

// flood sends data again and again until the socket takes no more, and returns how much
// that was and its checksum.
func flood(conn *net.TCPConn, data []byte) (sent int64, sum uint32) {
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := conn.Write(data)
		sent, sum = sent+int64(n), crc32.Update(sum, crc32.IEEETable, data[:n])
		if err != nil {
			return sent, sum
		}
	}
}

// memory is what the process uses for data and stacks.
func memory() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

// A client that goes away while its activate hook runs does not reach the service,
// unless it has sent a job and the lock keeps half-closed clients. The next one is served.
func TestClientThatGoesDuringActivateHook(t *testing.T) {
	for _, kind := range []struct {
		name, halfClosed, data string
		leave                  func(c *client)
		served                 int
	}{
		{name: "reset", halfClosed: "keep", data: "job", leave: (*client).reset},
		{name: "close with nothing sent", halfClosed: "keep", leave: func(c *client) { c.Close() }},
		{name: "end with nothing sent", halfClosed: "keep", leave: (*client).end},
		{name: "end after data, drop", halfClosed: "drop", data: "job", leave: (*client).end},
		{name: "end after data, keep", halfClosed: "keep", data: "job", leave: (*client).end, served: 1},
	} {
		t.Run(kind.name, func(t *testing.T) {
			svc := newService(t, echo)
			gate := freeAddr(t)
			addr := lockServer(t, fmt.Sprintf("tcplock {\nhalf_closed %s\non activate wait %s\n}", kind.halfClosed, gate), svc.addr)
			leaver := way{}.come(t, addr, kind.data)
			inLine(t, "default", 1, 0)
			next := dial(t, addr)
			send(t, next, "next")
			inLine(t, "default", 1, 1)
			kind.leave(leaver)
			newServiceAt(t, gate, echo) // the hook has been waiting for this
			if kind.served > 0 {
				expect(t, leaver, kind.data)
				expectEOF(t, leaver)
			}
			expect(t, next, "next")
			if _, _, total := svc.counts(); total != kind.served+1 {
				t.Errorf("%d connections reached the service, expected %d", total, kind.served+1)
			}
		})
	}
}
