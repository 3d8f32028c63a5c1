package operators_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The page works under a policy that allows only its own script and style, and it requests
// nothing but itself. This holds at any path, and whatever policy the site has set before.
func TestStatusPagePolicy(t *testing.T) {
	for name, directives := range map[string]string{
		"alone":           "tcplock_status",
		"policy of site":  "header Content-Security-Policy \"default-src 'self'\"\ntcplock_status",
		"below a path":    "respond /other 404\ntcplock_status /",
		"before respond":  "respond hello\ntcplock_status /",
		"gzip for others": "encode\ntcplock_status",
	} {
		t.Run(name, func(t *testing.T) {
			_, url := caddytest.PageServer(t, "127.0.0.1:1", directives)
			resp, body := caddytest.Fetch(t, "GET", url, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
				t.Fatalf("found %s %v, expected the page", resp.Status, resp.Header)
			}
			for header, want := range map[string]string{
				"X-Content-Type-Options":       "nosniff",
				"Referrer-Policy":              "no-referrer",
				"Cross-Origin-Resource-Policy": "same-origin",
				"Cache-Control":                "no-store",
			} {
				if got := resp.Header.Values(header); len(got) != 1 || got[0] != want {
					t.Errorf("%s: found %q, expected %q", header, got, want)
				}
			}
			if vary := strings.Join(resp.Header.Values("Vary"), ", "); !strings.Contains(vary, "Accept") {
				t.Errorf("Vary: found %q, expected Accept in it", vary)
			}
			wantPolicy(t, resp.Header.Values("Content-Security-Policy"), body)
		})
	}
}

// wantPolicy makes sure that the policy is strict, and allows the page's own script and style.
func wantPolicy(t *testing.T, policies []string, page []byte) {
	t.Helper()
	hash := func(tag string) string {
		found := regexp.MustCompile(`(?s)<` + tag + `[^>]*>(.*)</` + tag + `>`).FindSubmatch(page)
		if found == nil || len(found[1]) < 1000 {
			t.Fatalf("found no %s in the page", tag)
		}
		sum := sha256.Sum256(found[1])
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	want := []string{
		"default-src 'none'", "script-src " + hash("script"), "style-src " + hash("style"), "connect-src 'self'", "img-src data:",
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
	}
	if got := strings.Join(policies, "\n"); got != strings.Join(want, "; ") {
		t.Errorf("policy: found\n%s\nexpected\n%s", got, strings.Join(want, "; "))
	}
	for _, address := range regexp.MustCompile(`(?:https?:)?//[\w.]+`).FindAll(page, -1) {
		if !bytes.HasSuffix(address, []byte("//www.w3.org")) { // the name of SVG
			t.Errorf("the page names %s, expected no other address", address)
		}
	}
}

// A request gets the type that it accepts, and the page if it prefers no other type. It can
// change nothing.
func TestStatusPageNegotiation(t *testing.T) {
	_, url := caddytest.PageServer(t, "127.0.0.1:1", "tcplock_status")
	const page, stream, snapshot = "text/html; charset=utf-8", "text/event-stream", "application/json"
	for _, c := range []struct {
		method, accept string
		status         int
		want           string
	}{
		{"GET", "", 200, page},
		{"GET", "*/*", 200, page},
		{"GET", "text/*", 200, page},
		{"HEAD", "", 200, page},
		{"GET", "application/json", 200, snapshot},
		{"GET", "application/*, text/html;q=0.5", 200, snapshot},
		{"GET", "text/html;q=0.5, */*;q=0.1, application/json;q=0.9", 200, snapshot},
		{"GET", "text/html;q=0, */*", 200, snapshot},
		{"HEAD", "text/event-stream;q=0.9, text/*;q=0.1", 200, stream},
		{"HEAD", "application/json", 200, snapshot},
		{"HEAD", "text/event-stream", 200, stream},
		{"GET", "image/png", 406, ""},
		{"GET", "text/html;q=0, ;;, text/", 406, ""},
		{"POST", "", 405, ""},
		{"PUT", "application/json", 405, ""},
		{"DELETE", "text/event-stream", 405, ""},
		{"OPTIONS", "", 405, ""},
	} {
		resp, body := caddytest.Fetch(t, c.method, url, c.accept)
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.want {
			t.Errorf("%s %q: found %s %q, expected %d %q", c.method, c.accept, resp.Status, resp.Header.Get("Content-Type"), c.status, c.want)
		}
		if empty := c.method == "HEAD" || c.status != 200; empty != (len(body) == 0) {
			t.Errorf("%s %q: found %d bytes", c.method, c.accept, len(body))
		}
		if allow := resp.Header.Get("Allow"); c.status == 405 && allow != "GET, HEAD" {
			t.Errorf("%s: found Allow %q", c.method, allow)
		}
	}
}

// The JSON has the locks as they are at that moment.
func TestStatusPageJSON(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, url := caddytest.PageServer(t, svc.Addr, "tcplock_status")
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "x")
	caddytest.Expect(t, first, "x")
	second := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 1)
	_, body := caddytest.Fetch(t, "GET", url, "application/json")
	var got struct{ Locks []status.Lock }
	if err := json.Unmarshal(body, &got); err != nil || len(got.Locks) != 1 {
		t.Fatalf("found %s, error %v, expected one lock", body, err)
	}
	lock := got.Locks[0]
	if lock.Name != "default" || lock.Slots != 1 || lock.Held != 1 || lock.Waiting != 1 ||
		len(lock.Holders) != 1 || lock.Holders[0].Client != first.LocalAddr().String() ||
		len(lock.Waiters) != 1 || lock.Waiters[0].Client != second.LocalAddr().String() {
		t.Errorf("found %s, expected %s to hold and %s to wait", body, first.LocalAddr(), second.LocalAddr())
	}
}

// A config may have a page and no lock, several pages, or be validated only. There is one hub as
// long as a config in use has a page.
func TestStatusPageHub(t *testing.T) {
	site := "http://" + caddytest.FreeAddr(t)
	hubs := func(want int) {
		t.Helper()
		caddytest.Eventually(t, fmt.Sprint(want, " hubs"), func() bool { return caddytest.Hubs() == want })
	}
	if err := caddy.Validate(caddytest.ParseConfig(t, caddytest.Global("")+site+" {\ntcplock_status\n}\n")); err != nil {
		t.Fatal(err)
	}
	hubs(0)
	caddytest.Load(t, caddytest.Global("")+site+" {\ntcplock_status /a\ntcplock_status /b\n}\n")
	hubs(1)
	if _, body := caddytest.Fetch(t, "GET", site+"/b", "application/json"); string(body) != `{"locks":[]}`+"\n" {
		t.Errorf("found %q, expected no locks", body)
	}
	caddytest.Load(t, caddytest.Global("")+site+" {\nrespond hello\n}\n")
	hubs(0)
}

// The examples in the manual work as it says.
func TestStatusPageManual(t *testing.T) {
	raw, err := os.ReadFile("../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(caddyfile|json)\n(.*?)```").FindAllSubmatch(raw, -1)
	if len(blocks) != 5 {
		t.Fatalf("found %d examples, expected the syntax, 3 Caddyfiles and JSON", len(blocks))
	}
	var first []byte
	for _, block := range blocks[1:] {
		if string(block[1]) == "caddyfile" {
			if formatted := caddyfile.Format(block[2]); !bytes.Equal(formatted, block[2]) {
				t.Errorf("found\n%s\nexpected it formatted:\n%s", block[2], formatted)
			}
			adapted := caddytest.Adapt(t, string(block[2]))
			if first == nil {
				first = adapted
			}
			continue
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, first, "", "\t"); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(block[2])); got != indented.String() {
			t.Errorf("found\n%s\nexpected\n%s", got, indented.String())
		}
	}
}
