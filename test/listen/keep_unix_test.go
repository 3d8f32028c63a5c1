//go:build unix

package listen_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// server is a layer4 server with a lock in front of a service.
func server(listen, lock, service string) string {
	return fmt.Sprintf("%s {\nroute {\ntcplock {\nname %s\nlinger 0\n}\nproxy %s\n}\n}\n", listen, lock, service)
}

func layer4(servers ...string) string {
	return caddytest.Global("storage_clean_interval off\nlayer4 {\n" + strings.Join(servers, "") + "}")
}

// A config that uses keep/ fails while it starts, many times. The config in force goes on, and no
// descriptor is left open.
func TestKeepAfterFailingReloads(t *testing.T) {
	svc := caddytest.NewService(t, echoLine)
	taken := caddytest.FreeAddr(t)
	ln, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr, second := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.Load(t, layer4(server("keep/"+addr, "a", svc.Addr)))
	caddytest.LeakCheck(t)
	failing := caddytest.Adapt(t, layer4(server("keep/"+addr, "a", svc.Addr), server("keep/"+second, "b", svc.Addr))+
		fmt.Sprintf("http://%s {\nrespond hello\n}", taken))
	reloads := 400
	if testing.Short() {
		reloads = 20
	}
	for range reloads {
		if err := caddytest.TryLoadJSON(t, failing); err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Fatalf("found %v, expected the address of the site to be in use", err)
		}
	}
	if err := ask(addr); err != nil {
		t.Errorf("after the failing reloads: %v", err)
	}
	if err := ask(second); err == nil {
		t.Error("found a listener of the config that failed, expected none")
	}
}

// Each change from one way to listen on a port to another works, or is refused with what to do, and then
// the config before it goes on.
func TestKeepChanges(t *testing.T) {
	caddytest.Slow(t)
	svc := caddytest.NewService(t, echoLine)
	for _, from := range []string{"", "keep/127.0.0.1", "keep/", "keep/0.0.0.0", "keep/[::]", "127.0.0.1", "0.0.0.0"} {
		for _, to := range []string{"keep/127.0.0.1", "keep/", "keep/0.0.0.0", "keep/[::]", "127.0.0.1", "0.0.0.0"} {
			addr := caddytest.FreeAddr(t)
			_, port, _ := net.SplitHostPort(addr)
			before, after := server(from+":"+port, "a", svc.Addr), server(to+":"+port, "a", svc.Addr)
			if err := caddytest.TryLoad(t, layer4(before)); err != nil {
				t.Fatalf("%s alone: %v", from, err)
			}
			err := caddytest.TryLoad(t, layer4(after))
			all := strings.NewReplacer("[::]", "", "0.0.0.0", "") // three ways to write one address
			same := all.Replace(from) == all.Replace(to)
			works := same || !strings.HasPrefix(from, "keep/") && !strings.HasPrefix(to, "keep/")
			switch {
			case works && err != nil:
				t.Errorf("from %q to %q: %v", from, to, err)
			case !works && (err == nil || !strings.Contains(err.Error(), "a reload cannot change from one to the other; restart Caddy")):
				t.Errorf("from %q to %q: found %v, expected to be told to restart Caddy", from, to, err)
			}
			if err := ask(addr); err != nil {
				t.Errorf("after the change from %q to %q: %v", from, to, err)
			}
		}
	}
}

// An address must not stand twice in one config: each of the servers would get a part of the
// connections.
func TestKeepTwiceInOneConfig(t *testing.T) {
	svc := caddytest.NewService(t, echoLine)
	_, port, _ := net.SplitHostPort(caddytest.FreeAddr(t))
	for _, second := range []string{":", "[::]:", "127.0.0.1:"} {
		err := caddytest.TryLoad(t, layer4(server("keep/:"+port, "a", svc.Addr), server("keep/"+second+port, "b", svc.Addr)))
		if err == nil || !strings.Contains(err.Error(), "twice in one config") && !strings.Contains(err.Error(), "found this process itself to listen on") {
			t.Errorf("%s beside keep/:%s: found %v, expected an error", second, port, err)
		}
	}
}

// A range of ports has one socket for each port, with all rules of keep/.
func TestKeepPortRange(t *testing.T) {
	svc := caddytest.NewService(t, echoLine)
	addrs := []string{caddytest.FreeAddr(t), caddytest.FreeAddr(t), caddytest.FreeAddr(t)} // mostly one after the other
	_, first, _ := net.SplitHostPort(addrs[0])
	_, last, _ := net.SplitHostPort(addrs[2])
	caddytest.Load(t, layer4(server("keep/127.0.0.1:"+first+"-"+last, "a", svc.Addr)))
	for _, addr := range addrs {
		if err := ask(addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// The admin endpoint cannot listen on keep/.
func TestKeepIsNotForAdmin(t *testing.T) {
	err := caddytest.TryLoad(t, "{\nadmin keep/"+caddytest.FreeAddr(t)+"\n}")
	if err == nil || !strings.Contains(err.Error(), "expected another network: Caddy's commands could not connect to it") {
		t.Errorf("found %v, expected an error", err)
	}
}

// A second process is refused, with the process that listens there.
func TestKeepRefusesSecondProcess(t *testing.T) {
	svc := caddytest.NewService(t, echoLine)
	addr := caddytest.FreeAddr(t)
	first := caddytest.StartCaddy(t, 0, layer4(server("keep/"+addr, "a", svc.Addr)))
	first.Listens(t, addr)
	err := caddytest.TryLoad(t, layer4(server("keep/"+addr, "a", svc.Addr)))
	if err == nil || !strings.Contains(err.Error(), "found another process") || !strings.Contains(err.Error(), "listen on another address") {
		t.Errorf("found %v, expected to be told of the other process", err)
	}
	if err := caddytest.TryLoad(t, layer4(server(addr, "a", svc.Addr))); err == nil {
		t.Error("without keep/: found the second process to listen as well")
	}
	first.Lives(t)
}

// An HTTP site listens on keep/ through reloads. It has HTTP/3 as well, which Caddy opens beside it.
func TestKeepForSites(t *testing.T) {
	addr := caddytest.FreeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	storage, err := os.MkdirTemp("", "tcplock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(storage) })
	site := func(answer string) string {
		options := caddytest.Global("storage_clean_interval off\nstorage file_system " + storage)
		return strings.Replace(options, "auto_https off", "auto_https disable_redirects", 1) + fmt.Sprintf("https://localhost:%s {\nbind keep/%s\ntls internal\nrespond %s\n}\n", port, host, answer)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
	for i := range 10 {
		answer := fmt.Sprint("answer", i)
		caddytest.Load(t, site(answer))
		caddytest.Eventually(t, answer, func() bool {
			resp, err := client.Get("https://localhost:" + port)
			if err != nil && i == 0 {
				return false // there is no certificate yet
			}
			if err != nil {
				t.Fatalf("after reload %d: %v", i, err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return string(body) == answer
		})
	}
}

// A lock in the listener wrappers of a site works on keep/, and reloads lose none of its connections.
func TestKeepUnderListenerWrapper(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, echoLine)
	addr := caddytest.FreeAddr(t)
	host, _, _ := net.SplitHostPort(addr)
	config := func(slots int) string {
		return caddytest.Global(fmt.Sprintf("storage_clean_interval off\nservers {\nlistener_wrappers {\nlayer4 {\nroute {\ntcplock %d {\nlinger 0\n}\nproxy %s\n}\n}\n}\n}", slots, svc.Addr)) +
			fmt.Sprintf("http://%s {\nbind keep/%s\n}\n", addr, host)
	}
	l := reloadUnder(t, addr, 50, [2]string{config(8), config(9)})
	t.Log(l)
	if l.lost.Load() > 0 {
		t.Errorf("%s, expected none", l)
	}
}

// When no descriptor is left, connections wait in the accept queue, also through a reload. All are
// served as soon as there are descriptors.
func TestKeepSurvivesLackOfDescriptors(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, echoLine)
	addr := caddytest.FreeAddr(t)
	config := func(slots int) []byte {
		return caddytest.Adapt(t, caddytest.LockConfig("keep/"+addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), svc.Addr))
	}
	if err := caddytest.TryLoadJSON(t, config(4)); err != nil {
		t.Fatal(err)
	}
	const waiting = 200
	other := config(5)
	var clients []int
	var to unix.Sockaddr
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	to = &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	for range waiting {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, fd)
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
	for _, fd := range clients {
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
	}
	reloaded := caddytest.TryLoadJSON(t, other)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if reloaded != nil {
		t.Errorf("reload without descriptors: %v", reloaded)
	}
	var all sync.WaitGroup
	for _, fd := range clients {
		file := os.NewFile(uintptr(fd), "")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := question(conn); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
