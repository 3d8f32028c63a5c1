package operators_test

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What browsers and others can do to the admin API and the status page: the attacks of
// docs/security.md that no other file has.

// A page in an operator's browser sends requests to the admin listener, directly or through a name
// that the page's owner has made lead there. It can change nothing at a lock, and read nothing.
func TestAdminFromForeignPage(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(caddytest.FreeAddr(t), "tcplock", svc.Addr))
	caddytest.Load(t, config)
	const evil = "http://evil.example"
	for _, attack := range []struct {
		name, host string
		header     map[string]string
	}{
		{"form or fetch", a.Addr, map[string]string{"Origin": evil, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"}},
		{"form, old browser", a.Addr, map[string]string{"Origin": evil}},
		{"sandboxed frame", a.Addr, map[string]string{"Origin": "null"}},
		{"image or script", a.Addr, map[string]string{"Sec-Fetch-Mode": "no-cors"}},
		{"link", a.Addr, map[string]string{"Sec-Fetch-Mode": "navigate", "Referer": evil + "/"}},
		{"rebound name", "evil.example", nil},
		{"rebound name with port", "evil.example:" + caddytest.PortOf(t, a.Addr), map[string]string{"Origin": evil}},
	} {
		for _, request := range []string{"POST /tcplock/locks/default/pause", "POST /tcplock/locks/default/kick?id=1", "POST /tcplock/locks/default/run?moment=activate", "GET /tcplock/locks"} {
			method, path, _ := strings.Cut(request, " ")
			resp := a.AsBrowser(t, method, path, attack.host, attack.header)
			if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s, %s: found %s %v, expected that it is refused", attack.name, request, resp.Status, resp.Header)
			}
		}
	}
	if s := a.Lock(t, "default"); s.Paused != nil {
		t.Error("found the lock paused by a page elsewhere")
	}
}

// A request for the admin API goes to a site, and to its status page. The API is not there.
func TestAdminOnItsListenerOnly(t *testing.T) {
	svc, site := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.PageConfig(caddytest.FreeAddr(t), svc.Addr, site, "tcplock_status /tcplock/*"))
	caddytest.Load(t, config)
	for _, path := range []string{"/tcplock/locks", "/tcplock/locks/default", "/tcplock/locks/default/pause"} {
		if resp, _ := caddytest.Fetch(t, "POST", "http://"+site+path, ""); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: found %s, expected that the page refuses it", path, resp.Status)
		}
	}
	if s := a.Lock(t, "default"); s.Paused != nil {
		t.Error("found the lock paused by a site's request")
	}
}

// The largest possible requests to the admin API. None of them makes a lock, takes long or gets
// a long answer.
func TestAdminHugeRequests(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(caddytest.FreeAddr(t), "tcplock", svc.Addr))
	caddytest.Load(t, config)
	long := strings.Repeat("x", 50_000)
	for _, c := range []struct {
		path   string
		status int
		most   int
	}{
		{"/tcplock/locks/" + long, 404, 60_000},
		{"/tcplock/locks/%00%1b[2J", 404, 1000},
		{"/tcplock/locks/default/" + long, 404, 60_000},
		{"/tcplock/locks?waiters=" + strings.Repeat("9", 50_000), 400, 60_000},
		{"/tcplock/locks?waiters=9223372036854775807", 200, 4000},
		{"/tcplock/locks?waiters=" + strings.Repeat("1&waiters=", 5000), 400, 1000},
	} {
		method := "GET"
		if strings.HasPrefix(c.path, "/tcplock/locks/default/") {
			method = "POST"
		}
		resp, body := a.Ask(t, method, c.path)
		if resp.StatusCode != c.status || len(body) > c.most || strings.Contains(body, "\x1b") {
			t.Errorf("%.60s: found %s and %d bytes, expected %d and at most %d bytes", c.path, resp.Status, len(body), c.status, c.most)
		}
	}
	if n := caddytest.Locks(); n != 1 {
		t.Errorf("found %d locks, expected 1", n)
	}
}

// A client opens more streams than there may be viewers. The page and the JSON still work, and
// when a viewer goes there is room for another.
func TestStatusPageViewersBounded(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	_, url := caddytest.PageServer(t, "127.0.0.1:1", "tcplock_status")
	caddytest.LeakCheck(t)
	open := func() *http.Response {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		resp, err := caddytest.PageClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	var viewers []*http.Response
	for range 200 {
		viewers = append(viewers, open())
	}
	for i, v := range viewers {
		if v.StatusCode != http.StatusOK {
			t.Fatalf("found %s for viewer %d, expected a stream", v.Status, i)
		}
	}
	for range 3 {
		if resp := open(); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("found %s, expected that there is no room", resp.Status)
		}
	}
	for _, accept := range []string{"text/html", "application/json"} {
		if resp, _ := caddytest.Fetch(t, "GET", url, accept); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: found %s, expected it", accept, resp.Status)
		}
	}
	viewers[0].Body.Close()
	caddytest.Eventually(t, "there is room again", func() bool { return open().StatusCode == http.StatusOK })
}

// An attacker's name leads to this machine. A site that has a name, as in the quickstart, does not
// show its status page under the attacker's name.
func TestStatusPageForeignHost(t *testing.T) {
	_, url := caddytest.PageServer(t, "127.0.0.1:1", "tcplock_status")
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	resp, err := caddytest.PageClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) > 0 || resp.Header.Get("Content-Security-Policy") != "" {
		t.Errorf("found %v %s (%v), expected nothing", resp.Header, body, err)
	}
	quickstart, err := os.ReadFile("../../examples/quickstart/Caddyfile")
	if err != nil || !regexp.MustCompile(`(?m)^http://\S*localhost\S* \{\n\tbind localhost\n\ttcplock_status`).Match(quickstart) {
		t.Errorf("found no site with a name for the page in the quickstart (%v)", err)
	}
}
