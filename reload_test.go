package tcplock_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// line is the clients of one lock, numbered as they come, and what its service, served by
// hand, has to see of them: as many as the limit says, the next one always the one that
// has waited longest, and nobody else.
type line struct {
	svc     *service
	lock    string
	limit   int
	come    func(t *testing.T, i int) net.Conn // client i, which sends its number
	clients []net.Conn
	served  map[int]*net.TCPConn // who is at the service
	next    int                  // the first in line
}

// newLine is the line of clients of lock "default" at addr.
func newLine(svc *service, addr string, limit int) *line {
	return &line{svc: svc, lock: "default", limit: limit, served: make(map[int]*net.TCPConn), come: func(t *testing.T, i int) net.Conn {
		return plainly(t, addr, number(i))
	}}
}

// join lets n more clients come, one after the other.
func (l *line) join(t *testing.T, n int) {
	t.Helper()
	for range n {
		l.clients = append(l.clients, l.come(t, len(l.clients)))
		l.admit(t)
	}
}

// leave ends client i's conversation, on the service's side first.
func (l *line) leave(t *testing.T, i int) {
	t.Helper()
	conn := l.served[i]
	delete(l.served, i)
	l.svc.leave(conn)
	l.clients[i].Close()
	l.admit(t)
}

// reload puts another limit in force.
func (l *line) reload(t *testing.T, limit int, caddyfile string) {
	t.Helper()
	load(t, caddyfile)
	l.limit = limit
	l.admit(t)
}

// admit makes sure that those come to the service whose turn it is, and no others.
func (l *line) admit(t *testing.T) {
	t.Helper()
	first := l.next
	for len(l.served) < l.limit && l.next < len(l.clients) {
		conn := l.svc.next(t)
		digits := make([]byte, len(number(0)))
		if _, err := io.ReadFull(conn, digits); err != nil {
			t.Fatalf("client number %d: %v", l.next, err)
		}
		i, _ := strconv.Atoi(string(digits))
		l.served[i] = conn
		l.next++
	}
	for i := first; i < l.next; i++ { // several may have been let through at once
		if l.served[i] == nil {
			t.Fatalf("at the service are %v, expected client %d among them", slices.Sorted(maps.Keys(l.served)), i)
		}
	}
	inLine(t, l.lock, len(l.served), len(l.clients)-l.next)
	if now, _, _ := l.svc.counts(); now != len(l.served) {
		t.Fatalf("the service has %d connections, expected %d", now, len(l.served))
	}
}

// talk makes sure that whoever is at the service can still talk to it.
func (l *line) talk(t *testing.T) {
	t.Helper()
	for i, conn := range l.served {
		send(t, l.clients[i], "still here?")
		expect(t, conn, "still here?")
		send(t, conn, "yes")
		expect(t, l.clients[i], "yes")
	}
}

// finish lets all leave, in some order.
func (l *line) finish(t *testing.T) {
	t.Helper()
	for len(l.served) > 0 {
		for i := range l.served {
			l.leave(t, i)
			break
		}
	}
}

// The config is reloaded fifty times while clients hold slots, wait, come and go, and the
// limit goes up and down. After each reload the newest limit holds, those who were there
// before it was lowered finish, those who have a slot keep their connection and those in
// line their place. A hook that runs every 7th time does so on the whole, and the
// connections are numbered on. Nothing is left behind.
func TestFiftyReloads(t *testing.T) {
	const every = 7
	notes := filepath.Join(t.TempDir(), "notes")
	svc := newService(t, nil)
	addr := freeAddr(t)
	reloads := 0
	config := func(limit int) string {
		reloads++
		return lockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\nwait_timeout %dm\non activate {\nevery %d\nexec sh -c \"echo $TCPLOCK_CONNECTION >> '%s'\"\n}\n}",
			limit, reloads, every, notes), svc.addr)
	}
	load(t, config(3))
	leakCheck(t)
	l := newLine(svc, addr, 3)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for range 50 {
		l.join(t, max(0, l.next+5-len(l.clients))) // at least five are in line
		limit := 1 + random.IntN(6)
		l.reload(t, limit, config(limit))
		l.talk(t)
		for _, i := range slices.Sorted(maps.Keys(l.served)) {
			if random.IntN(2) == 0 {
				l.leave(t, i)
			}
		}
		if got, want := len(noted(t, notes)), (l.next+every-1)/every; got != want {
			t.Fatalf("the hook has run %d times for %d connections, expected %d", got, l.next, want)
		}
	}
	l.reload(t, 1, config(1))
	l.finish(t)
	for len(l.clients)%every != 1 {
		l.join(t, 1)
		l.finish(t)
	}
	all := noted(t, notes)
	if last := all[len(all)-1]; last != fmt.Sprint(len(l.clients)) {
		t.Errorf("the last connection was number %s, expected %d", last, len(l.clients))
	}
	if n := tcplock.Locks(); n != 1 {
		t.Errorf("there are %d locks, expected 1", n)
	}
}

// noted returns what a hook has written, line by line.
func noted(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// Who came before a reload that gives the route another service keeps the route it came
// by; who comes after it goes to the new one. All are in one line.
func TestWaitersKeepTheirRoute(t *testing.T) {
	before, after := newService(t, nil), newService(t, nil)
	addr := lockServer(t, "tcplock {\nlinger 0\n}", before.addr)
	for i := range 3 {
		plainly(t, addr, number(i))
		inLine(t, "default", 1, i)
	}
	load(t, lockConfig(addr, "tcplock {\nlinger 0\nwait_timeout 1h\n}", after.addr))
	plainly(t, addr, number(3))
	inLine(t, "default", 1, 3)
	for i, svc := range []*service{before, before, before, after} {
		conn := svc.next(t)
		expect(t, conn, number(i))
		inLine(t, "default", 1, 3-i)
		svc.leave(conn)
	}
	inLine(t, "default", 0, 0)
}

// A hold_timeout that comes with a reload is not for who holds a slot by then, but for
// who gets one after that, whenever it came.
func TestTimesThatRunKeepTheirLength(t *testing.T) {
	const hold = 2 * time.Second
	svc := newService(t, nil)
	addr := lockServer(t, "tcplock {\nlinger 0\n}", svc.addr)
	l := newLine(svc, addr, 1)
	l.join(t, 2)
	load(t, lockConfig(addr, fmt.Sprintf("tcplock {\nlinger 0\nhold_timeout %s\n}", hold), svc.addr))
	time.Sleep(hold + hold/2)
	l.talk(t)
	l.svc.leave(l.served[0])
	expectHolds(t, svc, 1, hold)
}

// The lock is taken out of the config and brought back with other limits while its old
// holders live. Without it the line goes on by the old limit; with it they count, so that
// nobody gets in before enough of them have gone.
func TestLockRemovedAndBroughtBack(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, "tcplock 3 {\nlinger 0\n}", svc.addr)
	leakCheck(t)
	l := newLine(svc, addr, 3)
	l.join(t, 5)
	for _, limit := range []int{2, 4, 1} {
		load(t, lockConfig(freeAddr(t), "", svc.addr))
		l.admit(t)
		l.talk(t)
		l.leave(t, slices.Min(slices.Collect(maps.Keys(l.served))))
		l.reload(t, limit, lockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", limit), svc.addr))
		l.join(t, 2)
		l.talk(t)
	}
	svc.nobody(t, "the old holders count")
	l.finish(t)
}

// Reloads that fail, at whatever stage and in whatever order Caddy starts its apps, change
// no limit and disturb nobody: not for a moment, and not later either.
func TestFailedReloadChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const config = "storage_clean_interval off\nlayer4 {\n%s {\nroute {\n%s\nproxy %s\n}\n}\n%s\n}"
	for _, failure := range []struct{ name, server, site, want string }{
		{"at provision", freeAddr(t) + " {\nroute {\ntcplock\necho\n}\n}", "", "found a second tcplock without a name"},
		{"in the lock's start", freeAddr(t) + " {\nroute {\ntcplock {\nname other\n}\necho\n}\n}", "", "lock other: no handler of this config says what it is"},
		{"in another app's start", "", fmt.Sprintf("http://%s {\nrespond hello\n}", taken.Addr()), "address already in use"},
		// (caddy-l4 leaves open what it has opened by then, and serves who comes there.)
		{"in the server's start", taken.Addr().String() + " {\nroute {\ntcplock 1 {\nname other\n}\necho\n}\n}", "", "address already in use"},
	} {
		t.Run(failure.name, func(t *testing.T) {
			svc := newService(t, nil)
			addr := lockServer(t, "tcplock 2 {\nlinger 0\n}", svc.addr)
			l := newLine(svc, addr, 2)
			l.join(t, 4)
			for i := range 10 {
				lock := fmt.Sprintf("tcplock %d {\nlinger 0\nmax_waiting 0\non activate exec false\n}", 1+i%2*4) // lower, higher
				err := tryLoad(t, global(fmt.Sprintf(config, addr, lock, svc.addr, failure.server))+failure.site)
				if err == nil || !strings.Contains(err.Error(), failure.want) {
					t.Fatalf("found %v, expected an error with %s", err, failure.want)
				}
				if n := tcplock.Locks(); n != 1 {
					t.Fatalf("there are %d locks, expected 1", n)
				}
				l.admit(t)
				l.leave(t, l.next-2)
				l.join(t, 1)
			}
			svc.nobody(t, "the limit is 2")
			l.talk(t)
			l.finish(t)
		})
	}
}

// Three reload the config a hundred times as fast as they can, with limits from 1 to 4,
// while clients come and go. Each of them gets the whole of its answer. (They come through
// a Unix socket: Caddy hands that on from config to config. A TCP listener it closes when
// it has opened another, and the system resets whom it has not accepted by then.)
func TestReloadsUnderLoad(t *testing.T) {
	const clients, limits, reloads = 12, 4, 100
	answer := bytes.Repeat([]byte("answer "), 20_000)
	svc := newService(t, func(conn *net.TCPConn) {
		if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			_, _ = conn.Write(append([]byte(line), answer...))
		}
	})
	dir, err := os.MkdirTemp("", "tcplock") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	var configs [][]byte
	for i := range limits {
		configs = append(configs, adapt(t, lockConfig("unix/"+socket, fmt.Sprintf("tcplock %d {\nlinger 0\n}", i+1), svc.addr)))
	}
	if err := tryLoadJSON(t, configs[0]); err != nil {
		t.Fatal(err)
	}
	leakCheck(t)
	var all sync.WaitGroup
	var reloaded, asked atomic.Int32
	for i := range 3 {
		all.Go(func() {
			for ; reloaded.Load() < reloads; reloaded.Add(1) {
				if err := tryLoadJSON(t, configs[i%limits]); err != nil {
					t.Error(err)
				}
				i++
			}
		})
	}
	for i := range clients {
		all.Go(func() {
			for reloaded.Load() < reloads {
				ask(t, socket, fmt.Sprintf("question %d of %d\n", asked.Add(1), i), answer)
			}
		})
	}
	all.Wait()
	inLine(t, "default", 0, 0)
	if _, most, total := svc.counts(); most > limits || total != int(asked.Load()) {
		t.Errorf("the service had %d connections at most and %d in all, expected at most %d and %d", most, total, limits, asked.Load())
	}
}

// ask sends a question and makes sure that it comes back with the whole answer.
func ask(t *testing.T, socket, question string, answer []byte) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, question)
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != question+string(answer) {
		t.Errorf("%q: read %d bytes, error %v, expected %d bytes", question, len(got), err, len(question)+len(answer))
	}
}

// The config that is replaced has an HTTP server that goes away, with a request in it that
// is not answered, and takes three seconds for that. The new limit does not wait for it.
func TestNewLimitDoesNotWaitForOldServers(t *testing.T) {
	svc, silent := newService(t, nil), newService(t, nil)
	addr, web := freeAddr(t), freeAddr(t)
	load(t, strings.Replace(lockConfig(addr, "tcplock 1 {\nlinger 0\n}", svc.addr), "{\n", "{\nstorage_clean_interval off\nshutdown_delay 3s\n", 1)+
		fmt.Sprintf("http://%s {\nreverse_proxy %s\n}\n", web, silent.addr))
	l := newLine(svc, addr, 1)
	l.join(t, 3)
	send(t, dial(t, web), fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", web))
	request := silent.next(t)
	raised := adapt(t, lockConfig(addr, "tcplock 2 {\nlinger 0\n}", svc.addr))
	reloaded := make(chan error, 1)
	go func() { reloaded <- tryLoadJSON(t, raised) }()
	l.limit = 2
	l.admit(t)
	l.leave(t, 0)
	select {
	case err := <-reloaded:
		t.Errorf("the reload was over before the limit was seen to be in force: %v", err)
	default:
		if err := <-reloaded; err != nil {
			t.Error(err)
		}
	}
	silent.leave(request)
	l.talk(t)
	l.finish(t)
}
