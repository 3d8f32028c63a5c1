package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// half is what both a TCP and a unix connection can do.
type half interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// bulk is a connection through a lock that has carried so much both ways that it goes through pipes.
type bulk struct {
	client, service half
	in, out         int64 // bytes so far
}

// bulkWay is a way on which both sockets are plain.
type bulkWay struct {
	name            string
	listen, service string // networks
}

var bulkWays = []bulkWay{{"keep", "keep", "tcp"}, {"plain", "", "tcp"}, {"unix", "unix", "unix"}}

// open starts Caddy with a lock and returns a function that connects through it.
func (w bulkWay) open(t *testing.T, options string) (connect func() bulk, a caddytest.Admin, lines func(string, int) []map[string]any) {
	t.Helper()
	at := func(network string) (listen, network2, address string) {
		if network == "unix" {
			address = caddytest.Socket(t)
			return "unix/" + address, "unix", address
		}
		address = caddytest.FreeAddr(t)
		return network + "/" + address, "tcp", address
	}
	to, toNetwork, toAddress := at(w.service)
	ln, err := net.Listen(toNetwork, toAddress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	listen, network, address := at(w.listen)
	caddyfile := caddytest.RouteConfig(trimSlash(listen), fmt.Sprintf("tcplock {\nto %s\n%s\n}", to, options))
	caddyfile, lines = caddytest.Logged(t, caddyfile, "")
	caddyfile, a = caddytest.WithAdmin(t, caddyfile)
	caddytest.Load(t, caddyfile)
	caddytest.LeakCheck(t)
	return func() bulk {
		t.Helper()
		client, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		service, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, conn := range []net.Conn{client, service} {
			t.Cleanup(func() { conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
		}
		b := bulk{client: client.(half), service: service.(half)}
		b.warm(t)
		return b
	}, a, lines
}

func trimSlash(listen string) string {
	if listen[0] == '/' {
		return listen[1:]
	}
	return listen
}

// warm sends more than goes through a buffer in each direction. A pipe goes when the last bytes come in a small
// piece, as they may.
func (b *bulk) warm(t *testing.T) {
	t.Helper()
	const size = 100_000
	for end := time.Now().Add(caddytest.Patience); inside.Process.Budget().Others != 4; {
		b.pass(t, b.client, b.service, size)
		b.pass(t, b.service, b.client, size)
		b.in, b.out = b.in+size, b.out+size
		if time.Now().After(end) {
			t.Fatal("found no two pipes")
		}
	}
}

// pass sends so many bytes from one side, and checks that the other gets them.
func (b bulk) pass(t *testing.T, from, to half, n int) {
	t.Helper()
	go func() { _, _ = from.Write(streams[:n]) }()
	got := make([]byte, n)
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, streams[:n]) {
		t.Fatalf("found other bytes than were sent, or error %v", err)
	}
}

// expectPipes waits until there are so many pipes.
func expectPipes(t *testing.T, n int64) {
	t.Helper()
	caddytest.Eventually(t, fmt.Sprint(n, " pipes are in the budget"), func() bool { return inside.Process.Budget().Others == 2*n })
}

// flood sends until nothing has gone for a while, and returns how many bytes have.
func flood(t *testing.T, from half) (sent int64) {
	t.Helper()
	for {
		_ = from.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := from.Write(streams)
		sent += int64(n)
		if err != nil {
			_ = from.SetWriteDeadline(time.Now().Add(caddytest.Patience))
			return sent
		}
	}
}

// A connection on which little is said at a time keeps no pipe.
func TestLittleNeedsNoPipe(t *testing.T) {
	connect, _, _ := bulkWays[0].open(t, "")
	b := connect()
	b.pass(t, b.client, b.service, 100)
	b.pass(t, b.service, b.client, 100)
	expectPipes(t, 0)
	b.warm(t)
	b.client.Close()
}

// Data of any size goes both ways at once, whole, and then the end. Pipes are used where both sides are plain
// sockets, after 64 KiB and not before.
func TestBulkBothWays(t *testing.T) {
	for _, w := range bulkWays {
		t.Run(w.name, func(t *testing.T) {
			connect, _, _ := w.open(t, "")
			for _, size := range []int{0, 1, 32 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 256 << 10, 1<<20 + 1, 16 << 20} {
				b := connect()
				got := make(chan error, 2)
				for _, way := range [][2]half{{b.client, b.service}, {b.service, b.client}} {
					data := bytes.Repeat(streams, 1+size/len(streams))[:size]
					go func() {
						_, _ = way[0].Write(data)
						_ = way[0].CloseWrite()
					}()
					go func() {
						all, err := io.ReadAll(way[1])
						if err == nil && !bytes.Equal(all, data) {
							err = fmt.Errorf("found %d other bytes, expected %d", len(all), size)
						}
						got <- err
					}()
				}
				for range 2 {
					if err := <-got; err != nil {
						t.Errorf("%d bytes: %v", size, err)
					}
				}
				expectPipes(t, 0)
				b.client.Close()
				b.service.Close()
				caddytest.InLine(t, "default", 0, 0)
			}
		})
	}
}

// Where the first 64 KiB have not gone, or something lies between the sockets, there is no pipe.
func TestNoPipe(t *testing.T) {
	for name, before := range map[string]string{"wrapped": "test_fragile", "throttled": caddytest.Slowdown, "in another lock": "tcplock 2 {\nname outer\n}"} {
		t.Run(name, func(t *testing.T) {
			svc, addr := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
			caddytest.Load(t, caddytest.RouteConfig("keep/"+addr, before+"\ntcplock {\nto "+svc.Addr+"\nlinger 0\n}"))
			caddytest.LeakCheck(t)
			echoes(t, caddytest.Dial(t, addr), 200_000)
		})
	}
	t.Run("short", func(t *testing.T) {
		svc, addr := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
		caddytest.Load(t, config("keep/"+addr, 1, "", svc.Addr))
		caddytest.LeakCheck(t)
		echoes(t, caddytest.Dial(t, addr), 60_000)
	})
}

func echoes(t *testing.T, client *net.TCPConn, n int) {
	t.Helper()
	b := bulk{client: client, service: client}
	b.pass(t, client, client, n)
	if use := inside.Process.Budget(); use.Others != 0 {
		t.Errorf("found %+v in the budget, expected no pipe", use)
	}
	client.Close()
	caddytest.InLine(t, "default", 0, 0)
}

// One side stops reading in the middle, until nothing moves. The status shows what has moved. Then it reads on,
// and gets all.
func TestBulkStops(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprint("to the service ", up), func(t *testing.T) {
			connect, a, lines := bulkWays[0].open(t, "")
			b := connect()
			from, to, before := b.client, b.service, b.in
			moved := func(c status.Connection) int64 { return c.BytesIn }
			if !up {
				from, to, before = to, from, b.out
				moved = func(c status.Connection) int64 { return c.BytesOut }
			}
			sent := flood(t, from)
			caddytest.Eventually(t, "the status shows that much has moved", func() bool {
				n := moved(a.Lock(t, "default").Holders[0])
				return n > before+1<<20 && n <= before+sent
			})
			stuck := moved(a.Lock(t, "default").Holders[0])
			if _, err := io.CopyN(io.Discard, to, sent/2); err != nil {
				t.Fatal(err)
			}
			caddytest.Eventually(t, "the status shows more", func() bool { return moved(a.Lock(t, "default").Holders[0]) > stuck })
			_ = from.CloseWrite()
			rest, err := io.ReadAll(to)
			if err != nil || int64(len(rest)) != sent-sent/2 {
				t.Errorf("found %d bytes and error %v, expected the last %d of %d", len(rest), err, sent-sent/2, sent)
			}
			b.client.Close()
			b.service.Close()
			line := lines(".access", 1)[0]
			in, out := b.in, b.out
			if up {
				in += sent
			} else {
				out += sent
			}
			expectBytes(t, line, in, out, 0)
		})
	}
}

func expectBytes(t *testing.T, line map[string]any, in, out, discarded int64) {
	t.Helper()
	for name, want := range map[string]int64{"bytes_in": in, "bytes_out": out, "bytes_discarded": discarded} {
		if line[name] != float64(want) {
			t.Errorf("found %s %v, expected %d", name, line[name], want)
		}
	}
}

// One side takes no more in the middle, when the pipe is full. What is in the sockets behind tcplock still
// arrives. All else is discarded, to the byte.
func TestBulkBreaks(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprint("to the service ", up), func(t *testing.T) {
			connect, a, lines := bulkWays[2].open(t, "linger 1m") // what a unix socket has taken can be read to the last byte
			b := connect()
			from, to := b.client, b.service
			if !up {
				from, to = to, from
			}
			sent := flood(t, from)
			_ = to.CloseRead() // writing to it fails; it can still read what it has
			arrived, err := io.Copy(io.Discard, to)
			if err != nil || arrived == 0 || arrived >= sent {
				t.Errorf("found %d bytes and error %v, expected a part of %d", arrived, err, sent)
			}
			more, err := from.Write(streams)
			if err != nil {
				t.Error(err)
			}
			sent += int64(more)
			caddytest.Eventually(t, "all has been read", func() bool {
				h := a.Lock(t, "default").Holders[0]
				return !up || h.BytesIn == b.in+sent
			})
			_ = from.CloseWrite()
			_ = to.CloseWrite()
			b.client.Close()
			b.service.Close()
			line := lines(".access", 1)[0]
			in, out := b.in, b.out
			if up {
				in += sent
			} else {
				out += arrived
			}
			expectBytes(t, line, in, out, sent-arrived)
		})
	}
}

// An operator kicks a connection, or hold_timeout is over, while pipes are full both ways and no side reads. The
// slot is free at once, and the descriptors are when the service has closed.
func TestBulkIsCut(t *testing.T) {
	for _, outcome := range []string{status.Kicked, status.HoldTimeout} {
		t.Run(outcome, func(t *testing.T) {
			options := ""
			if outcome == status.HoldTimeout {
				options = "hold_timeout 2s"
			}
			connect, a, _ := bulkWays[0].open(t, options)
			b := connect()
			flood(t, b.client)
			flood(t, b.service)
			if outcome == status.Kicked {
				caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=1")
			}
			caddytest.Within(t, 4*time.Second, "the slot is free", func() bool {
				_, held, _, _ := caddytest.LockStats("default")
				return held == 0
			})
			b.service.Close() // until then something is left over there
			expectPipes(t, 0)
			if n := caddytest.Status(t, "default").Connections[outcome]; n != 1 {
				t.Errorf("found %d %s, expected 1", n, outcome)
			}
		})
	}
}

// The service has closed its side after much has gone both ways. What the client still says comes to the service
// as long as its pauses are shorter than linger. Then the slot is free: after linger, and not after twice as much.
func TestBulkLingers(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	const linger = 1500 * time.Millisecond // long beside what a busy machine may add to the pauses below
	connect, _, _ := bulkWays[0].open(t, fmt.Sprintf("linger %s", linger))
	b := connect()
	_ = b.service.CloseWrite()
	if n, err := b.client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("found %d bytes and %v, expected the end", n, err)
	}
	for range 3 {
		time.Sleep(linger / 2)
		b.pass(t, b.client, b.service, 5000) // not so little that the pipe goes
	}
	start := time.Now()
	caddytest.InLine(t, "default", 1, 0)
	caddytest.InLine(t, "default", 0, 0)
	if took := time.Since(start); took < linger*3/4 || took > linger*7/4 {
		t.Errorf("found the slot free after %s, expected %s", took, linger)
	}
}
