//go:build unix

package line_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A process with few descriptors and two hundred clients at once, three times. None is served
// before enough of them have been closed. Then all others are served, one at a time, or
// refused, also by a second service that takes as long. A burst is accepted faster than the
// lock can count it, so descriptors may run out for a moment. Afterwards all is as before.
func TestBurstWithFewDescriptors(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	for _, refuse := range []bool{false, true} {
		for _, descriptors := range []int{80, 120, 256} {
			t.Run(fmt.Sprintf("refuse %t, %d descriptors", refuse, descriptors), func(t *testing.T) {
				t.Parallel()
				var gate atomic.Value // of chan struct{}
				behind := func(serve func(*net.TCPConn)) *caddytest.Service {
					return caddytest.NewService(t, func(conn *net.TCPConn) {
						if open, ok := gate.Load().(chan struct{}); ok { // else it is no client of this test
							<-open
						}
						serve(conn)
					})
				}
				svc, busy := behind(caddytest.Echo), behind(answerBusy)
				options := "drain 1s\n"
				if refuse {
					options += "max_waiting 2\nrefuse {\nproxy " + busy.Addr + "\n}\n"
				}
				addr := caddytest.FreeAddr(t)
				p := caddytest.StartCaddy(t, descriptors, caddytest.LockConfig(addr, "tcplock {\n"+options+"}", svc.Addr))
				for range 3 {
					open := make(chan struct{})
					gate.Store(open)
					burst(t, addr, descriptors, open)
					start := time.Now()
					caddytest.ExpectServed(t, addr)
					if took := time.Since(start); took > 10*time.Second {
						t.Errorf("the first client after the burst was served after %s", took)
					}
				}
				p.Lives(t)
				if _, most, _ := svc.Counts(); most > 1 {
					t.Errorf("the service had %d connections at a time, expected 1", most)
				}
			})
		}
	}
}

// burst sends two hundred clients. It opens the gate when the clients that are too many for the
// descriptors have been closed.
func burst(t *testing.T, addr string, descriptors int, gate chan struct{}) {
	t.Helper()
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	const burst = 200
	// One connection has two descriptors. With refuse handlers, three connections are in the
	// lock and sixteen with these handlers.
	admitted := max(descriptors-64-1, 3+16)
	var clients sync.WaitGroup
	var closed, served atomic.Int32
	for range burst {
		clients.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
			_, _ = io.WriteString(conn, "hello")
			buf := make([]byte, len("hello"))
			_, err = io.ReadFull(conn, buf)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Error("a client was neither served nor closed")
			} else if err == nil && string(buf) == "hello" {
				served.Add(1)
			} else {
				closed.Add(1)
			}
		})
	}
	caddytest.Eventually(t, "clients are refused", func() bool { return int(closed.Load()) >= burst-admitted })
	if n := served.Load(); n > 0 {
		t.Errorf("%d clients were served by a service that serves none", n)
	}
	open()
	clients.Wait()
	t.Logf("%d served, %d closed", served.Load(), closed.Load())
}

// caddy-l4 has stopped accepting on all its listeners. After a while connections are accepted
// again, also those that have waited since then, and take their usual way. Sockets of other
// programs are left alone, on other ports and on the same one. A reload ends this, and leaves
// nothing behind.
func TestStandIn(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	here, anywhere, named := caddytest.FreeAddr(t), ":"+caddytest.PortOf(t, caddytest.FreeAddr(t)), "localhost:"+caddytest.PortOf(t, caddytest.FreeAddr(t))
	socket := filepath.Join(t.TempDir(), "s")
	var servers strings.Builder
	for _, addr := range []string{here, anywhere, named, "unix/" + socket} {
		fmt.Fprintf(&servers, "%s {\n@hello regexp hel+o 5\nroute @hello {\ntcplock {\nname a\nmax_waiting 100\n}\nproxy %s\n}\n}\n", addr, svc.Addr)
	}
	config := caddytest.Global("layer4 {\n" + servers.String() + "}")
	others := listenElsewhere(t, "127.0.0.2:"+caddytest.PortOf(t, here), "127.0.0.1:0")
	before := accepting() // of configs that failed to start, or are just ending
	caddytest.Load(t, config)
	caddytest.LeakCheck(t)
	addrs := []string{here, "127.0.0.1" + anywhere, named, socket}
	caddytest.Eventually(t, "caddy-l4 accepts", func() bool { return len(without(accepting(), before)) == len(addrs) })
	waiting := stopAccepting(t, addrs, without(accepting(), before))
	for _, other := range others {
		caddytest.Send(t, caddytest.Dial(t, other.Addr().String()), "hello")
	}
	for round := range 2 {
		for i, addr := range addrs {
			conn := waiting[i]
			if round > 0 {
				conn = dialAny(t, addr)
			}
			expectEcho(t, conn)
		}
	}
	for _, other := range others {
		_ = other.SetDeadline(time.Now().Add(caddytest.Patience))
		conn, err := other.Accept()
		if err != nil {
			t.Fatalf("another listener has accepted the connection: %v", err)
		}
		caddytest.Expect(t, conn, "hello")
		conn.Close()
	}
	caddytest.Load(t, config)
	for _, addr := range addrs {
		expectEcho(t, dialAny(t, addr))
	}
}

// accepting returns the goroutines in which caddy-l4 accepts connections.
func accepting() (goroutines []string) {
	stacks := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if name, _, _ := strings.Cut(stack, " ["); strings.Contains(stack, "layer4.(*Server).serve(") {
			goroutines = append(goroutines, name)
		}
	}
	return goroutines
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// listenElsewhere listens at addresses and accepts nothing. It leaves out the addresses that the
// system does not have.
func listenElsewhere(t *testing.T, addrs ...string) (listeners []*net.TCPListener) {
	t.Helper()
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		t.Cleanup(func() { ln.Close() })
		listeners = append(listeners, ln.(*net.TCPListener))
	}
	return listeners
}

func dialAny(t *testing.T, addr string) net.Conn {
	t.Helper()
	if strings.HasPrefix(addr, "/") {
		conn, err := net.Dial("unix", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
		return conn
	}
	return caddytest.Dial(t, addr)
}

func expectEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	caddytest.Send(t, conn, "hello")
	caddytest.Expect(t, conn, "hello")
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	caddytest.ExpectEOF(t, conn)
	conn.Close()
}

// stopAccepting takes all descriptors away from the process, until one client at each address
// has made caddy-l4 stop there. It returns these clients.
func stopAccepting(t *testing.T, addrs, loops []string) (clients []net.Conn) {
	t.Helper()
	var files []*os.File
	var connects []func() error
	for _, addr := range addrs {
		fd, to := socketFor(t, addr)
		files = append(files, os.NewFile(uintptr(fd), addr))
		connects = append(connects, func() error { return unix.Connect(fd, to) })
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	for _, connect := range connects {
		if err := connect(); err != nil {
			t.Fatal(err)
		}
	}
	caddytest.Eventually(t, "caddy-l4 accepts no more", func() bool { return len(without(loops, accepting())) == len(loops) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
		clients = append(clients, conn)
	}
	return clients
}

// socketFor returns a socket that is not connected yet, and the address for it.
func socketFor(t *testing.T, addr string) (fd int, to unix.Sockaddr) {
	t.Helper()
	family := unix.AF_INET
	if strings.HasPrefix(addr, "/") {
		family, to = unix.AF_UNIX, &unix.SockaddrUnix{Name: addr}
	} else {
		tcp, err := net.ResolveTCPAddr("tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		to = &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(fd)
	return fd, to
}
