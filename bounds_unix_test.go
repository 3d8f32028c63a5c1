//go:build unix

package tcplock_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startCaddy runs the program with a Caddyfile, and with at most that many descriptors if
// not 0. What files Caddy keeps, it keeps in the test's directory.
func startCaddy(t *testing.T, descriptors int, caddyfile string) *program {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	name, args := buildCaddy(t), []string{"run", "--config", file}
	if descriptors > 0 {
		// Both limits, since Go raises the soft one to the hard one.
		script := `ulimit -n "$0" && exec "$@"`
		name, args = "sh", append([]string{"-c", script, strconv.Itoa(descriptors), name}, args...)
	}
	p := start(t, env, name, args...)
	p.prints(t, "serving initial configuration")
	return p
}

// lives makes sure that the program still runs, and that it ends well.
func (p *program) lives(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("the program has ended: %v", p.err)
	default:
	}
	p.stop(t)
	if p.err != nil {
		t.Errorf("after an interrupt: %v, expected success", p.err)
	}
}

// A process with few descriptors, and two hundred clients at once, three times. Nobody is
// served before enough of them have been closed. Then everybody else is served, one at a
// time, or refused, be it by a second service that takes as long: a burst is accepted
// faster than the lock can count it, so that descriptors may run out for a moment.
// Afterwards all is as before.
func TestBurstWithFewDescriptors(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		for _, descriptors := range []int{80, 120, 256} {
			t.Run(fmt.Sprintf("refuse %t, %d descriptors", refuse, descriptors), func(t *testing.T) {
				var gate atomic.Value // of chan struct{}
				behind := func(serve func(*net.TCPConn)) *service {
					return newService(t, func(conn *net.TCPConn) {
						if open, ok := gate.Load().(chan struct{}); ok { // else it is no client of this test
							<-open
						}
						serve(conn)
					})
				}
				svc, busy := behind(echo), behind(answerBusy)
				options := "drain 1s\n"
				if refuse {
					options += "max_waiting 2\nrefuse {\nproxy " + busy.addr + "\n}\n"
				}
				addr := freeAddr(t)
				p := startCaddy(t, descriptors, lockConfig(addr, "tcplock {\n"+options+"}", svc.addr))
				for range 3 {
					open := make(chan struct{})
					gate.Store(open)
					burst(t, addr, descriptors, open)
					start := time.Now()
					expectServed(t, addr)
					if took := time.Since(start); took > 10*time.Second {
						t.Errorf("the first client after the burst was served after %s", took)
					}
				}
				p.lives(t)
				if _, most, _ := svc.counts(); most > 1 {
					t.Errorf("the service had %d connections at a time, expected 1", most)
				}
			})
		}
	}
}

// burst sends two hundred clients, and opens the gate when those have been closed who are
// too many for the descriptors.
func burst(t *testing.T, addr string, descriptors int, gate chan struct{}) {
	t.Helper()
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	const burst = 200
	// One connection has two descriptors; or, with refuse handlers, three are in the lock
	// and sixteen with these.
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
			_ = conn.SetDeadline(time.Now().Add(patience))
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
	eventually(t, "clients are refused", func() bool { return int(closed.Load()) >= burst-admitted })
	if n := served.Load(); n > 0 {
		t.Errorf("%d clients were served by a service that serves nobody", n)
	}
	open()
	clients.Wait()
	t.Logf("%d served, %d closed", served.Load(), closed.Load())
}

// caddy-l4 has stopped accepting on all its listeners. After a while connections are
// accepted again, also those that have waited since then, and go the way they would have
// gone. The sockets of others are left alone, on other ports and on the same one. A
// reload ends it, and leaves nothing behind.
func TestStandIn(t *testing.T) {
	svc := newService(t, echo)
	here, anywhere, named := freeAddr(t), ":"+portOf(t, freeAddr(t)), "localhost:"+portOf(t, freeAddr(t))
	socket := filepath.Join(t.TempDir(), "s")
	var servers strings.Builder
	for _, addr := range []string{here, anywhere, named, "unix/" + socket} {
		fmt.Fprintf(&servers, "%s {\n@hello regexp hel+o 5\nroute @hello {\ntcplock {\nname a\nmax_waiting 100\n}\nproxy %s\n}\n}\n", addr, svc.addr)
	}
	config := global("layer4 {\n" + servers.String() + "}")
	others := listenElsewhere(t, "127.0.0.2:"+portOf(t, here), "127.0.0.1:0")
	before := accepting() // of configs that failed to start, or are just ending
	load(t, config)
	leakCheck(t)
	addrs := []string{here, "127.0.0.1" + anywhere, named, socket}
	eventually(t, "caddy-l4 accepts", func() bool { return len(without(accepting(), before)) == len(addrs) })
	waiting := stopAccepting(t, addrs, without(accepting(), before))
	for _, other := range others {
		send(t, dial(t, other.Addr().String()), "hello")
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
		_ = other.SetDeadline(time.Now().Add(patience))
		conn, err := other.Accept()
		if err != nil {
			t.Fatalf("somebody else has accepted the connection: %v", err)
		}
		expect(t, conn, "hello")
		conn.Close()
	}
	load(t, config)
	for _, addr := range addrs {
		expectEcho(t, dialAny(t, addr))
	}
}

// accepting names the goroutines in which caddy-l4 accepts connections.
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

// listenElsewhere listens there where nobody accepts; what the system does not have is
// left out.
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
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	return dial(t, addr)
}

func expectEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	send(t, conn, "hello")
	expect(t, conn, "hello")
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	expectEOF(t, conn)
	conn.Close()
}

// stopAccepting takes all descriptors away from the process for as long as it takes one
// client at each address to make caddy-l4 stop there. It returns these clients.
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
	eventually(t, "caddy-l4 accepts no more", func() bool { return len(without(loops, accepting())) == len(loops) })
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
		_ = conn.SetDeadline(time.Now().Add(patience))
		clients = append(clients, conn)
	}
	return clients
}

// socketFor makes a socket that is not connected yet, and tells where it is to connect.
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
