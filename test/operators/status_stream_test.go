package operators_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t *testing.T) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), ResponseHeaderTimeout: caddytest.Patience}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// All viewers learn within a second that a connection has come or gone, over HTTP/1.1,
// compressed, and over HTTP/2.
func TestStatusStream(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, site := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	// A server in a Caddyfile speaks HTTP/2 without TLS only if the config says so.
	caddytest.Load(t, strings.Replace(caddytest.PageConfig(addr, svc.Addr, site, "encode {\nmatch header Content-Type text/*\n}\ntcplock_status"), "{\n", "{\nservers {\nprotocols h1 h2c\n}\n", 1))
	caddytest.LeakCheck(t)
	url := "http://" + site + "/"
	viewers := map[string]*caddytest.Viewer{
		"HTTP/1.1": caddytest.OpenStream(t, caddytest.PageClient, url, ""),
		"gzip":     caddytest.OpenStream(t, caddytest.PageClient, url, "gzip"),
		"HTTP/2":   caddytest.OpenStream(t, h2c(t), url, ""),
	}
	for name, v := range viewers {
		v.Knows(t, "default", 0, 0)
		if two := v.Resp.ProtoMajor == 2; two != (name == "HTTP/2") {
			t.Errorf("%s: found %s", name, v.Resp.Proto)
		}
	}
	told := func(what string, held, waiting int) {
		t.Helper()
		start := time.Now()
		for name, v := range viewers {
			v.Knows(t, "default", held, waiting)
			if late := time.Since(start); late > caddytest.Patience/4 { // a poll is due each 250ms
				t.Errorf("%s: told %s after %s, expected within a second", name, what, late)
			}
		}
	}
	first := caddytest.Dial(t, addr)
	told("that one came", 1, 0)
	second := caddytest.Dial(t, addr)
	told("that one waits", 1, 1)
	for name, v := range viewers {
		lock := v.Locks["default"]
		if lock.Holders[0].Client != first.LocalAddr().String() || lock.Waiters[0].Client != second.LocalAddr().String() {
			t.Errorf("%s: found %+v, expected %s to hold and %s to wait", name, lock, first.LocalAddr(), second.LocalAddr())
		}
		v.Until(t, "samples with a waiter", func() bool { n := len(v.Samples["default"]); return n > 0 && v.Samples["default"][n-1] == 1 })
	}
	first.Close()
	told("that one went", 1, 0)
	second.Close()
	told("that all went", 0, 0)
	for _, v := range viewers {
		v.Resp.Body.Close()
	}
}

// A reload ends the streams. A viewer that connects again gets the history without a gap, and
// learns of a lock that the config has added or removed.
func TestStatusStreamReload(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, url := caddytest.PageServer(t, svc.Addr, "tcplock_status")
	site := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
	caddytest.LeakCheck(t)
	v := caddytest.OpenStream(t, caddytest.PageClient, url, "")
	waiting := func() bool { n := len(v.Samples["default"]); return n > 0 && v.Samples["default"][n-1] == 1 }
	first, second := caddytest.Dial(t, addr), caddytest.Dial(t, addr)
	v.Until(t, "a sample with one in line", waiting)

	other := caddytest.FreeAddr(t)
	two := strings.Replace(caddytest.PageConfig(addr, svc.Addr, site, "tcplock_status\nheader X-Y z"), "layer4 {", "layer4 {\n"+other+" {\nroute {\ntcplock 2 {\nname other\n}\necho\n}\n}", 1)
	caddytest.Load(t, two)
	v.Ended(t)
	v = caddytest.OpenStream(t, caddytest.PageClient, url, "")
	v.Knows(t, "default", 1, 1)
	if !waiting() {
		t.Errorf("found samples %v after a reload, expected the one before it", v.Samples["default"])
	}
	v.Until(t, "both locks", func() bool { return len(v.Names) == 2 })
	v.Knows(t, "other", 0, 0)

	caddytest.Load(t, caddytest.PageConfig(addr, svc.Addr, site, "tcplock_status"))
	v.Ended(t)
	v = caddytest.OpenStream(t, caddytest.PageClient, url, "")
	v.Until(t, "one lock", func() bool { return len(v.Names) == 1 && v.Names[0] == "default" })
	v.Resp.Body.Close()
	first.Close()
	second.Close()
	caddytest.InLine(t, "default", 0, 0)
}

// Caddy ends without waiting for viewers, although no grace_period bounds the wait.
func TestStatusStreamStop(t *testing.T) {
	t.Parallel()
	site, dir := caddytest.FreeAddr(t), t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(strings.Replace(caddytest.PageConfig(caddytest.FreeAddr(t), "127.0.0.1:1", site, "tcplock_status"), "grace_period 1s\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := caddytest.Start(t, []string{"XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}, caddytest.Caddy(t), "run", "--config", file)
	server.Prints(t, "serving initial configuration")
	v := caddytest.OpenStream(t, caddytest.PageClient, "http://"+site+"/", "")
	v.Knows(t, "default", 0, 0)
	server.Stop(t)
	v.Ended(t)
}
