package line_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Clients that leave the line for good never reach the service. They leave at once, at the head
// of the line, in its middle and at its end, while the slot stays held. The clients that stay
// are served in their order. This holds whatever stands before tcplock.
func TestClientThatLeavesLineIsGone(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, kind := range []struct {
		name    string
		options string
		data    string // what the client sends when it comes
		leave   func(t *testing.T, c *caddytest.Client)
	}{
		{name: "reset", leave: func(_ *testing.T, c *caddytest.Client) { c.Reset() }},
		{name: "reset after data", data: "job", leave: func(_ *testing.T, c *caddytest.Client) { c.Reset() }},
		{name: "close with nothing sent", leave: func(_ *testing.T, c *caddytest.Client) { c.Close() }},
		{name: "end with nothing sent", leave: func(_ *testing.T, c *caddytest.Client) { c.End() }},
		{name: "close after data, drop", data: "job", options: "half_closed drop", leave: func(_ *testing.T, c *caddytest.Client) { c.Close() }},
		{name: "end after data, drop", data: "job", options: "half_closed drop", leave: func(_ *testing.T, c *caddytest.Client) { c.End() }},
		{name: "end after data, then reset", data: "job", leave: func(t *testing.T, c *caddytest.Client) {
			c.End()
			lineStays(t)
			c.Reset()
		}},
	} {
		for _, w := range caddytest.Ways {
			if w.Seen && kind.data == "" {
				continue // without data no client comes this way
			}
			t.Run(w.Name+"/"+kind.name, func(t *testing.T) {
				svc := caddytest.NewService(t, nil)
				addr := w.Serve(t, "tcplock {\nlinger 0\n"+kind.options+"\n}", svc.Addr)
				caddytest.LeakCheck(t)
				w.Come(t, addr, "holder")
				holder := svc.Next(t)
				var line []*caddytest.Client
				for i := range 5 {
					data := caddytest.Number(i)
					if i%2 == 0 {
						data = kind.data
					}
					line = append(line, w.Come(t, addr, data))
					caddytest.InLine(t, "default", 1, i+1)
				}
				for left, i := range []int{2, 4, 0} { // middle, end, head
					kind.leave(t, line[i])
					caddytest.InLine(t, "default", 1, 4-left)
				}
				for _, i := range []int{1, 3} {
					svc.Leave(holder)
					holder = svc.Next(t)
					caddytest.Expect(t, holder, w.Passed()+caddytest.Number(i))
				}
				svc.Leave(holder)
				caddytest.InLine(t, "default", 0, 0)
				if _, _, total := svc.Counts(); total != 3 {
					t.Errorf("%d connections reached the service, expected those 3 of clients that stayed", total)
				}
			})
		}
	}
}

// Thirty print clients send their job and half-close while they stand in line, with jobs from 1
// KB to 2 MB, more than the sockets hold. All jobs arrive whole and in order, and each client
// gets its answer. This holds whatever stands before tcplock.
func TestHalfClosedJobs(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const jobs = 30
	for _, w := range caddytest.Ways {
		t.Run(w.Name, func(t *testing.T) {
			open := make(chan struct{})
			printed := make(chan []byte, jobs)
			svc := caddytest.NewService(t, func(conn *net.TCPConn) {
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
			addr := w.Serve(t, "tcplock", svc.Addr)
			caddytest.LeakCheck(t)

			want := make([][]byte, jobs)
			var clients, sent sync.WaitGroup
			for i := range jobs {
				job := make([]byte, 1<<10<<(i*11/(jobs-1)))
				_, _ = mathrand.NewChaCha8([32]byte{byte(i)}).Read(job)
				want[i] = append([]byte(w.Passed()), job...)
				c := w.Come(t, addr, string(job[:512]))
				caddytest.InLine(t, "default", 1, i)
				whole := len(job) <= 64<<10 // the sockets hold it
				if whole {
					sent.Add(1)
				}
				clients.Go(func() {
					caddytest.Send(t, c, string(job[512:]))
					c.CloseWrite()
					if whole {
						sent.Done()
					}
					caddytest.Expect(t, c, fmt.Sprintf("printed %d bytes", len(want[i])))
					caddytest.ExpectEOF(t, c)
				})
			}
			sent.Wait()
			lineStays(t)
			openOnce()
			clients.Wait()
			caddytest.InLine(t, "default", 0, 0)
			for i := range jobs {
				if job := <-printed; !bytes.Equal(job, want[i]) {
					t.Errorf("printed %d bytes as number %d, expected the %d bytes of job %d", len(job), i, len(want[i]), i)
				}
			}
		})
	}
}

// lineStays makes sure that for a moment no connection leaves the line, or joins it.
func lineStays(t *testing.T) {
	t.Helper()
	_, _, before, _ := caddytest.LockStats("default")
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, _, waiting, _ := caddytest.LockStats("default"); waiting != before {
			t.Fatalf("%d in line, expected %d as before", waiting, before)
		}
	}
}

// A client has sent its job and closed, without waiting for an answer. Its job is printed
// whole, as it would be without a lock.
func TestJobOfClientThatHasGone(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nlinger 0\n}", svc.Addr)
	caddytest.LeakCheck(t)
	caddytest.Dial(t, addr)
	holder := svc.Next(t)
	for i := range 5 {
		c := caddytest.Dial(t, addr)
		caddytest.Send(t, c, caddytest.Number(i))
		c.Close()
		caddytest.InLine(t, "default", 1, i+1)
	}
	lineStays(t)
	for i := range 5 {
		svc.Leave(holder)
		holder = svc.Next(t)
		caddytest.Expect(t, holder, caddytest.Number(i))
		caddytest.ExpectEOF(t, holder)
	}
	svc.Leave(holder)
	caddytest.InLine(t, "default", 0, 0)
}

// Twenty clients send as much as their sockets take while they stand in line. The bytes stay in
// the sockets, and the process does not grow. When their turn comes, all of it arrives.
func TestFloodStaysInSockets(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const flooders = 20
	open := make(chan struct{})
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		<-open
		sum := crc32.NewIEEE()
		n, _ := io.Copy(sum, conn)
		fmt.Fprintf(conn, "%d bytes %08x", n, sum.Sum32())
	})
	openOnce := sync.OnceFunc(func() { close(open) })
	t.Cleanup(openOnce)
	addr := caddytest.LockServer(t, "tcplock", svc.Addr)
	caddytest.LeakCheck(t)
	holder := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 0)
	var conns []*net.TCPConn
	for i := range flooders {
		conns = append(conns, caddytest.Dial(t, addr))
		caddytest.InLine(t, "default", 1, i+1)
	}
	data := make([]byte, 1<<16+1)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(data)

	before := memory()
	var flooded int64
	var answers []string
	for _, conn := range conns {
		n, sum := caddytest.Flood(conn, data)
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
		caddytest.Expect(t, conn, answers[i])
		caddytest.ExpectEOF(t, conn)
	}
}

// memory returns how much the process uses for data and stacks.
func memory() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

// A client goes while its activate hook runs. It does not reach the service, unless it has sent
// a job and the lock keeps half-closed clients. The next client is served.
func TestClientThatGoesDuringActivateHook(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, kind := range []struct {
		name, halfClosed, data string
		leave                  func(c *caddytest.Client)
		served                 int
	}{
		{name: "reset", halfClosed: "keep", data: "job", leave: (*caddytest.Client).Reset},
		{name: "close with nothing sent", halfClosed: "keep", leave: func(c *caddytest.Client) { c.Close() }},
		{name: "end with nothing sent", halfClosed: "keep", leave: (*caddytest.Client).End},
		{name: "end after data, drop", halfClosed: "drop", data: "job", leave: (*caddytest.Client).End},
		{name: "end after data, keep", halfClosed: "keep", data: "job", leave: (*caddytest.Client).End, served: 1},
	} {
		t.Run(kind.name, func(t *testing.T) {
			svc := caddytest.NewService(t, caddytest.Echo)
			gate := caddytest.FreeAddr(t)
			addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nhalf_closed %s\non activate wait %s\n}", kind.halfClosed, gate), svc.Addr)
			leaver := caddytest.Way{}.Come(t, addr, kind.data)
			caddytest.InLine(t, "default", 1, 0)
			next := caddytest.Dial(t, addr)
			caddytest.Send(t, next, "next")
			caddytest.InLine(t, "default", 1, 1)
			kind.leave(leaver)
			caddytest.NewServiceAt(t, gate, caddytest.Echo) // the hook has been waiting for this
			if kind.served > 0 {
				caddytest.Expect(t, leaver, kind.data)
				caddytest.ExpectEOF(t, leaver)
			}
			caddytest.Expect(t, next, "next")
			if _, _, total := svc.Counts(); total != kind.served+1 {
				t.Errorf("%d connections reached the service, expected %d", total, kind.served+1)
			}
		})
	}
}
