package relay_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Clients come, hang up, reset, and wait for too long, while an operator kicks, pauses, resumes and reloads, the
// way out changes, and the service goes down and comes back. Each client sees an end, each connection has one
// outcome, there are never more at the service than slots, and nothing is left.
func TestRacesOfDetachedConnections(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	t.Setenv("GOTRACEBACK", "all")
	const seed = 1
	lasts := raceTime
	if text := os.Getenv("RELAY_TEST_RACES"); text != "" {
		lasts, _ = time.ParseDuration(text)
	}
	svc := &unsteady{addr: caddytest.FreeAddr(t)}
	addr := caddytest.FreeAddr(t)
	way := func(more, out string) string {
		return caddytest.RouteConfig("keep/"+addr, "tcplock 2 {\nlinger 0\nrefuse {\ntest_tell_reason\n}\n"+more+"\n}"+out)
	}
	to := "to " + svc.addr
	caddyfile, a := caddytest.WithAdmin(t, way(to, ""))
	configs := []string{
		caddyfile,
		a.In(way(to+"\nwait_timeout 5ms", "")),
		a.In(way(to+"\nwait_timeout 50ms\nhold_timeout 5ms", "")),
		a.In(way(to+"\nhalf_closed drop\nsettle 1ms", "")),
		a.In(way(to+"\non activate {\nevery 3\nexclusive\nemit test_race\n}\non release {\nexclusive\nemit test_race\n}", "")),
		a.In(way("wait_timeout 20ms", "\nproxy "+svc.addr)),
	}
	caddytest.Load(t, configs[0])
	svc.listen(t)
	caddytest.LeakCheck(t)

	over := make(chan struct{})
	var all, operators sync.WaitGroup
	var came atomic.Uint64
	for i := range 12 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for !isOver(over) {
				came.Add(1)
				play(t, addr, random)
			}
		})
	}
	operate := func(i uint64, most time.Duration, act func(random *rand.Rand)) {
		operators.Go(func() {
			random := rand.New(rand.NewPCG(seed, 1000+i))
			for !isOver(over) {
				act(random)
				time.Sleep(time.Duration(random.Int64N(int64(most))))
			}
		})
	}
	post := func(path string) {
		resp, err := http.Post("http://"+a.Addr+"/tcplock/locks/default/"+path, "", nil)
		if err == nil {
			resp.Body.Close()
		}
	}
	operate(1, 3*time.Millisecond, func(random *rand.Rand) {
		id := came.Load() - min(random.Uint64N(15), came.Load())
		post(fmt.Sprint("kick?id=", id))
	})
	operate(2, 20*time.Millisecond, func(*rand.Rand) {
		post("pause")
		post("resume")
	})
	operate(3, 100*time.Millisecond, func(random *rand.Rand) {
		svc.close()
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond))))
		svc.listen(t)
	})
	operate(4, 100*time.Millisecond, func(random *rand.Rand) { caddytest.Load(t, configs[random.IntN(len(configs))]) })
	time.Sleep(lasts)
	close(over)
	operators.Wait()
	caddytest.Load(t, configs[0])
	all.Wait()
	caddytest.InLine(t, "default", 0, 0)
	caddytest.Eventually(t, "each connection has one outcome", func() bool {
		sum := uint64(0)
		for _, n := range caddytest.Status(t, "default").Connections {
			sum += n
		}
		return sum == came.Load()
	})
	t.Logf("%d connections: %v", came.Load(), caddytest.Status(t, "default").Connections)
	if most := svc.most.Load(); most > 2 {
		t.Errorf("found %d at the service at once, expected 2 at most", most)
	}
	svc.close()
}

const raceTime = 2 * time.Second

func isOver(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// play is one client. It does something at random, and then waits for its end.
func play(t *testing.T, addr string, random *rand.Rand) {
	dialed, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	conn := dialed.(*net.TCPConn)
	defer conn.Close()
	if random.IntN(3) > 0 {
		_, _ = conn.Write([]byte("hello"))
	}
	switch random.IntN(8) {
	case 0:
		return // closes at once
	case 1:
		_ = conn.SetLinger(0)
		return
	case 2:
		time.Sleep(time.Duration(random.Int64N(int64(10 * time.Millisecond))))
		_ = conn.SetLinger(random.IntN(2) - 1)
		return
	case 3:
		_ = conn.CloseWrite()
		time.Sleep(time.Duration(random.Int64N(int64(5 * time.Millisecond))))
		if random.IntN(2) == 0 {
			_ = conn.SetLinger(0)
			return
		}
	}
	_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
	if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
		t.Errorf("client %v saw no end", conn.LocalAddr())
	}
}

// unsteady is a service that goes down and comes back. It sends a word, and closes after a moment.
type unsteady struct {
	addr      string
	ln        net.Listener
	now, most atomic.Int64
}

func (u *unsteady) listen(t *testing.T) {
	var err error
	if u.ln, err = net.Listen("tcp", u.addr); err != nil {
		t.Error(err)
		return
	}
	ln := u.ln
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			now := u.now.Add(1)
			for most := u.most.Load(); now > most && !u.most.CompareAndSwap(most, now); most = u.most.Load() {
			}
			go func() {
				_, _ = conn.Write([]byte("welcome"))
				_ = conn.SetReadDeadline(time.Now().Add(time.Duration(1+rand.IntN(10)) * time.Millisecond))
				for n, err := conn.Read(make([]byte, 100)); err == nil; n, err = conn.Read(make([]byte, 100)) {
					_, _ = conn.Write(make([]byte, n))
				}
				u.now.Add(-1)
				conn.Close()
			}()
		}
	}()
}

func (u *unsteady) close() { u.ln.Close() }
