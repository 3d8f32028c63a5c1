package tcplock_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// wrapped is a config with an HTTP server at addr, behind layer4 routes.
func wrapped(addr, options, routes string) string {
	return global(fmt.Sprintf("storage_clean_interval off\n%s\nservers {\nlistener_wrappers {\nlayer4 {\n%s\n}\n}\n}", options, routes)) +
		fmt.Sprintf("http://%s {\nbind 127.0.0.1\nrespond hello\n}\n", addr)
}

// greet makes sure that the HTTP server answers.
func greet(t *testing.T, addr string) {
	t.Helper()
	// When caddy-l4 hands a connection on to the HTTP server it goes on to read the
	// connection's figures, and to use its buffer: races of its own.
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "hello" {
		t.Fatalf("read %q, error %v, expected hello", body, err)
	}
}

// One port serves HTTP, and clients that send a number come to a service behind a lock.
// They are served first come, first served, and never more than the limit says, which two
// reloads change. HTTP clients do not wait for them.
func TestListenerWrapper(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	config := func(slots int) string {
		return wrapped(addr, "", fmt.Sprintf("@number regexp [0-9]+ 3\nroute @number {\ntcplock %d {\nlinger 0\n}\nproxy %s\n}", slots, svc.addr))
	}
	load(t, config(2))
	greet(t, addr)
	leakCheck(t)
	l := newLine(svc, addr, 2)
	l.join(t, 7)
	for _, limit := range []int{3, 1} {
		greet(t, addr)
		l.talk(t)
		l.leave(t, l.next-1)
		l.reload(t, limit, config(limit))
		l.talk(t)
		l.join(t, 2)
	}
	greet(t, addr)
	svc.nobody(t, "the limit is 1")
	l.finish(t)
}

// In a listener wrapper, what nothing takes goes on to the HTTP server, out of the lock's
// sight. What has come by tcplock does not: it is closed, the log says why, and the slot
// is given back.
func TestNobodyTakesConnectionInListenerWrapper(t *testing.T) {
	svc := newService(t, echo)
	option, logged := logFile(t)
	addr := freeAddr(t)
	load(t, wrapped(addr, option, fmt.Sprintf(
		"@letters regexp [A-Za-z]+ 3\nroute @letters {\ntcplock\nsubroute {\n@text regexp abc 3\nroute @text {\nproxy %s\n}\n}\n}", svc.addr)))
	fail := func() {
		conn := dial(t, addr)
		start := time.Now()
		send(t, conn, "GET / HTTP/1.0\r\n\r\n")
		expectClosed(t, conn)
		if took := time.Since(start); took > patience/4 {
			t.Errorf("closed after %v, expected at once", took)
		}
		inLine(t, "default", 0, 0)
	}
	fail()
	logged(t, "tcplock must be followed, in the same route, by a handler that uses the connection up")
	leakCheck(t)
	for range 5 {
		fail()
	}
	expect(t, plainly(t, addr, "abc"), "abc")
}

// In a listener wrapper too, a route that would give the slot back too early is refused.
func TestListenerWrapperRefused(t *testing.T) {
	const want = "tcplock must be followed, in the same route, by a handler that uses the connection up"
	err := tryLoad(t, wrapped(freeAddr(t), "", "route {\ntcplock\n}\nroute {\necho\n}"))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("found %v, expected an error with %s", err, want)
	}
}
