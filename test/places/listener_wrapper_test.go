package places_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// wrapped is a config with an HTTP server at addr, behind layer4 routes.
func wrapped(addr, options, routes string) string {
	return caddytest.Global(fmt.Sprintf("storage_clean_interval off\n%s\nservers {\nlistener_wrappers {\nlayer4 {\n%s\n}\n}\n}", options, routes)) +
		fmt.Sprintf("http://%s {\nbind 127.0.0.1\nrespond hello\n}\n", addr)
}

// greet makes sure that the HTTP server answers.
func greet(t *testing.T, addr string) {
	t.Helper()
	// When caddy-l4 hands a connection on to the HTTP server, it still reads the connection's
	// figures and uses its buffer. These data races are caddy-l4's own.
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return
	}
	client := &http.Client{Timeout: caddytest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "hello" {
		t.Fatalf("read %q, error %v, expected hello", body, err)
	}
}

// One port serves HTTP, and clients that send a number go to a service behind a lock. They are
// served first come, first served, and never more at once than the limit says. Two reloads
// change the limit. HTTP clients do not wait for them.
func TestListenerWrapper(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	config := func(slots int) string {
		return wrapped(addr, "", fmt.Sprintf("@number regexp [0-9]+ 3\nroute @number {\ntcplock %d {\nlinger 0\n}\nproxy %s\n}", slots, svc.Addr))
	}
	caddytest.Load(t, config(2))
	greet(t, addr)
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 2)
	l.Join(t, 7)
	for _, limit := range []int{3, 1} {
		greet(t, addr)
		l.Talk(t)
		l.Leave(t, l.Next-1)
		l.Reload(t, limit, config(limit))
		l.Talk(t)
		l.Join(t, 2)
	}
	greet(t, addr)
	svc.NoneComes(t, "the limit is 1")
	l.Finish(t)
}

// In a listener wrapper, a connection that no route takes goes on to the HTTP server, where the
// lock cannot see it. A connection that has come through tcplock does not go on: it is closed,
// the log says why, and the slot is released.
func TestNoHandlerTakesConnectionInListenerWrapper(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	option, logged := caddytest.LogFile(t)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, wrapped(addr, option, fmt.Sprintf(
		"@letters regexp [A-Za-z]+ 3\nroute @letters {\ntcplock\nsubroute {\n@text regexp abc 3\nroute @text {\nproxy %s\n}\n}\n}", svc.Addr)))
	fail := func() {
		conn := caddytest.Dial(t, addr)
		start := time.Now()
		caddytest.Send(t, conn, "GET / HTTP/1.0\r\n\r\n")
		caddytest.ExpectClosed(t, conn)
		if took := time.Since(start); took > caddytest.Patience/4 {
			t.Errorf("closed after %v, expected at once", took)
		}
		caddytest.InLine(t, "default", 0, 0)
	}
	fail()
	logged(t, "tcplock must be followed, in the same route, by a handler that uses the connection up")
	caddytest.LeakCheck(t)
	for range 5 {
		fail()
	}
	caddytest.Expect(t, caddytest.DialSend(t, addr, "abc"), "abc")
}

// In a listener wrapper too, a route that would release the slot too early is refused.
func TestListenerWrapperRefused(t *testing.T) {
	const want = "tcplock must be followed, in the same route, by a handler that uses the connection up"
	err := caddytest.TryLoad(t, wrapped(caddytest.FreeAddr(t), "", "route {\ntcplock\n}\nroute {\necho\n}"))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("found %v, expected an error with %s", err, want)
	}
}
