package reload_test

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The config is reloaded fifty times while clients hold slots, wait, come and go, and the limit
// goes up and down. After each reload the newest limit holds. Holders from before a lower limit
// finish and keep their connection, and waiters keep their place. A hook that runs every 7th
// time does so over all configs, and the numbers of connections go on. Nothing is left behind.
func TestFiftyReloads(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const every = 7
	notes := filepath.Join(t.TempDir(), "notes")
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	reloads := 0
	config := func(limit int) string {
		reloads++
		return caddytest.LockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\nwait_timeout %dm\non activate {\nevery %d\nexec sh -c \"echo $TCPLOCK_CONNECTION >> '%s'\"\n}\n}",
			limit, reloads, every, notes), svc.Addr)
	}
	caddytest.Load(t, config(3))
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 3)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for range 50 {
		l.Join(t, max(0, l.Next+5-len(l.Clients))) // at least five are in line
		limit := 1 + random.IntN(6)
		l.Reload(t, limit, config(limit))
		l.Talk(t)
		for _, i := range slices.Sorted(maps.Keys(l.Served)) {
			if random.IntN(2) == 0 {
				l.Leave(t, i)
			}
		}
		if got, want := len(caddytest.Noted(t, notes)), (l.Next+every-1)/every; got != want {
			t.Fatalf("the hook has run %d times for %d connections, expected %d", got, l.Next, want)
		}
	}
	l.Reload(t, 1, config(1))
	l.Finish(t)
	for len(l.Clients)%every != 1 {
		l.Join(t, 1)
		l.Finish(t)
	}
	all := caddytest.Noted(t, notes)
	if last := all[len(all)-1]; last != fmt.Sprint(len(l.Clients)) {
		t.Errorf("the last connection was number %s, expected %d", last, len(l.Clients))
	}
	if n := caddytest.Locks(); n != 1 {
		t.Errorf("there are %d locks, expected 1", n)
	}
}

// A connection that came before a reload with another service keeps its route. One that comes
// after it goes to the new service. All are in one line.
func TestWaitersKeepTheirRoute(t *testing.T) {
	before, after, addr := caddytest.NewService(t, nil), caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.ProxyConfig(addr, "tcplock {\nlinger 0\n}", before.Addr))
	for i := range 3 {
		caddytest.DialSend(t, addr, caddytest.Number(i))
		caddytest.InLine(t, "default", 1, i)
	}
	caddytest.Load(t, caddytest.ProxyConfig(addr, "tcplock {\nlinger 0\nwait_timeout 1h\n}", after.Addr))
	caddytest.DialSend(t, addr, caddytest.Number(3))
	caddytest.InLine(t, "default", 1, 3)
	for i, svc := range []*caddytest.Service{before, before, before, after} {
		conn := svc.Next(t)
		caddytest.Expect(t, conn, caddytest.Number(i))
		caddytest.InLine(t, "default", 1, 3-i)
		svc.Leave(conn)
	}
	caddytest.InLine(t, "default", 0, 0)
}

// A hold_timeout that comes with a reload is not for the holders of that time. It is for every
// connection that gets a slot later, whenever it came.
func TestTimesThatRunKeepTheirLength(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const hold = 2 * time.Second
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nlinger 0\n}", svc.Addr)
	l := caddytest.NewLine(svc, addr, 1)
	l.Join(t, 2)
	caddytest.Load(t, caddytest.LockConfig(addr, fmt.Sprintf("tcplock {\nlinger 0\nhold_timeout %s\n}", hold), svc.Addr))
	time.Sleep(hold + hold/2)
	l.Talk(t)
	l.Svc.Leave(l.Served[0])
	caddytest.ExpectHolds(t, svc, 1, hold)
}

// A reload removes the lock, and another brings it back with other limits, while its old
// holders stay. Meanwhile the line goes on with the old limit. Afterwards the old holders
// count, so no connection gets in before enough of them have gone.
func TestLockRemovedAndBroughtBack(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock 3 {\nlinger 0\n}", svc.Addr)
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 3)
	l.Join(t, 5)
	for _, limit := range []int{2, 4, 1} {
		caddytest.Load(t, caddytest.LockConfig(caddytest.FreeAddr(t), "", svc.Addr))
		l.Admit(t)
		l.Talk(t)
		l.Leave(t, slices.Min(slices.Collect(maps.Keys(l.Served))))
		l.Reload(t, limit, caddytest.LockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", limit), svc.Addr))
		l.Join(t, 2)
		l.Talk(t)
	}
	svc.NoneComes(t, "the old holders count")
	l.Finish(t)
}

// Reloads that fail, at whatever stage and in whatever order Caddy starts its apps, change no
// limit and disturb no connection, neither for a moment nor later.
func TestFailedReloadChangesNothing(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const config = "storage_clean_interval off\nlayer4 {\n%s {\nroute {\n%s\n}\n}\n%s\n}"
	for _, failure := range []struct{ name, server, site, want string }{
		{"at provision", caddytest.FreeAddr(t) + " {\nroute {\ntcplock\necho\n}\n}", "", "found a second tcplock without a name"},
		{"in the lock's start", caddytest.FreeAddr(t) + " {\nroute {\ntcplock {\nname other\n}\necho\n}\n}", "", "lock other: no handler of this config has its settings"},
		{"in another app's start", "", fmt.Sprintf("http://%s {\nrespond hello\n}", taken.Addr()), "address already in use"},
		// (caddy-l4 leaves open the listeners that it has opened by then, and serves their
		// connections.)
		{"in the server's start", taken.Addr().String() + " {\nroute {\ntcplock 1 {\nname other\n}\necho\n}\n}", "", "address already in use"},
	} {
		t.Run(failure.name, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, "tcplock 2 {\nlinger 0\n}", svc.Addr)
			l := caddytest.NewLine(svc, addr, 2)
			l.Join(t, 4)
			for i := range 10 {
				lock := fmt.Sprintf("tcplock %d {\nlinger 0\nmax_waiting 0\non activate exec false\n}", 1+i%2*4) // lower, higher
				err := caddytest.TryLoad(t, caddytest.Global(fmt.Sprintf(config, caddytest.OnWay(addr), caddytest.WayOut(lock, svc.Addr), failure.server))+failure.site)
				if err == nil || !strings.Contains(err.Error(), failure.want) {
					t.Fatalf("found %v, expected an error with %s", err, failure.want)
				}
				if n := caddytest.Locks(); n != 1 {
					t.Fatalf("there are %d locks, expected 1", n)
				}
				l.Admit(t)
				l.Leave(t, l.Next-2)
				l.Join(t, 1)
			}
			svc.NoneComes(t, "the limit is 2")
			l.Talk(t)
			l.Finish(t)
		})
	}
}

// Three goroutines reload the config a hundred times as fast as they can, with limits from 1 to
// 4, while clients come and go. Each client gets its whole answer. (They come through a unix
// socket, which Caddy hands on from config to config. Caddy closes a TCP listener when it has
// opened another, and the system resets the connections that are not accepted by then.)
func TestReloadsUnderLoad(t *testing.T) {
	caddytest.Slow(t)
	const clients, limits, reloads = 12, 4, 100
	answer := bytes.Repeat([]byte("answer "), 20_000)
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			_, _ = conn.Write(append([]byte(line), answer...))
		}
	})
	socket := caddytest.Socket(t)
	var configs [][]byte
	for i := range limits {
		configs = append(configs, caddytest.Adapt(t, caddytest.LockConfig("unix/"+socket, fmt.Sprintf("tcplock %d {\nlinger 0\n}", i+1), svc.Addr)))
	}
	if err := caddytest.TryLoadJSON(t, configs[0]); err != nil {
		t.Fatal(err)
	}
	caddytest.LeakCheck(t)
	var all sync.WaitGroup
	var reloaded, asked atomic.Int32
	for i := range 3 {
		all.Go(func() {
			for ; reloaded.Load() < reloads; reloaded.Add(1) {
				if err := caddytest.TryLoadJSON(t, configs[i%limits]); err != nil {
					t.Error(err)
				}
				i++
			}
		})
	}
	for i := range clients {
		all.Go(func() {
			for reloaded.Load() < reloads {
				caddytest.Ask(t, socket, fmt.Sprintf("question %d of %d\n", asked.Add(1), i), answer)
				time.Sleep(time.Millisecond) // otherwise the clients leave no processor to the reloads
			}
		})
	}
	all.Wait()
	caddytest.InLine(t, "default", 0, 0)
	if _, most, total := svc.Counts(); most > limits || total != int(asked.Load()) {
		t.Errorf("the service had %d connections at most and %d in all, expected at most %d and %d", most, total, limits, asked.Load())
	}
}

// The old config has an HTTP server that the new one has not, with a request that is not
// answered. It takes three seconds to end. The new limit does not wait for it.
func TestNewLimitDoesNotWaitForOldServers(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc, silent := caddytest.NewService(t, nil), caddytest.NewService(t, nil)
	addr, web := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.Load(t, strings.Replace(caddytest.LockConfig(addr, "tcplock 1 {\nlinger 0\n}", svc.Addr), "{\n", "{\nstorage_clean_interval off\nshutdown_delay 3s\n", 1)+
		fmt.Sprintf("http://%s {\nreverse_proxy %s\n}\n", web, silent.Addr))
	l := caddytest.NewLine(svc, addr, 1)
	l.Join(t, 3)
	caddytest.Send(t, caddytest.Dial(t, web), fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", web))
	request := silent.Next(t)
	raised := caddytest.Adapt(t, caddytest.LockConfig(addr, "tcplock 2 {\nlinger 0\n}", svc.Addr))
	reloaded := make(chan error, 1)
	go func() { reloaded <- caddytest.TryLoadJSON(t, raised) }()
	l.Limit = 2
	l.Admit(t)
	l.Leave(t, 0)
	select {
	case err := <-reloaded:
		t.Errorf("the reload was over before the limit was seen to be in force: %v", err)
	default:
		if err := <-reloaded; err != nil {
			t.Error(err)
		}
	}
	silent.Leave(request)
	l.Talk(t)
	l.Finish(t)
}
