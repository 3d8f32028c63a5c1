package docs_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// examples maps each folder of examples/ to its test.
var examples = map[string]func(t *testing.T){
	"docker":              func(*testing.T) {}, // driven in e2e/deploy and e2e/services
	"http-with-busy-page": driveHTTP,
	"libreoffice":         func(t *testing.T) { caddytest.LoadExample(t, "libreoffice", caddytest.FreeAddr(t)) }, // driven in e2e/services
	"libreoffice-pool":    validatePool,                                                                          // driven in e2e/services
	"monitoring":          driveMonitoring,                                                                       // Prometheus is in e2e/monitoring
	"postgres":            func(t *testing.T) { caddytest.LoadExample(t, "postgres", caddytest.FreeAddr(t)) },    // driven in e2e/services
	"printer":             drivePrinter,
	"quickstart":          driveQuickstart,
	"systemd":             func(*testing.T) {}, // driven in e2e/services
	"tls":                 driveTLS,
}

// Each example is formatted, explained and valid, and keeps over real sockets what it promises.
func TestExamples(t *testing.T) {
	caddytest.Slow(t)
	folders, err := os.ReadDir("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	if len(folders) != len(examples) {
		t.Errorf("found %d folders in examples, expected the %d that are driven here", len(folders), len(examples))
	}
	for _, folder := range folders {
		t.Run(folder.Name(), func(t *testing.T) {
			checkExample(t, folder.Name())
			drive := examples[folder.Name()]
			if drive == nil {
				t.Fatal("found no test that drives this example, expected one")
			}
			drive(t)
		})
	}
}

func checkExample(t *testing.T, name string) {
	t.Helper()
	config := caddytest.ReadExample(t, name, "Caddyfile")
	if !bytes.Equal(caddyfile.Format(config), config) {
		t.Error("Caddyfile: not formatted, run caddy fmt")
	}
	caddytest.ReadExample(t, name, "README.md")
	for _, variable := range regexp.MustCompile(`\{\$(\w+)`).FindAllSubmatch(config, -1) {
		t.Setenv(string(variable[1]), "") // which will restore it
		os.Unsetenv(string(variable[1]))
	}
	var cfg caddy.Config
	if err := json.Unmarshal(caddytest.KeptToTest(t, caddytest.Adapt(t, string(config))), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&cfg); err != nil {
		t.Errorf("as it is: %v", err)
	}
}

// validatePool loads the example without starting it, and so without its processes.
func validatePool(t *testing.T) {
	var cfg caddy.Config
	if err := json.Unmarshal(caddytest.KeptToTest(t, caddytest.Adapt(t, string(caddytest.ReadExample(t, "libreoffice-pool", "Caddyfile")))), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&cfg); err != nil {
		t.Fatal(err)
	}
}

// A client is served, and the site says so.
func driveMonitoring(t *testing.T) {
	site := caddytest.FreeAddr(t)
	t.Setenv("METRICS", site)
	addr, _ := caddytest.LoadExample(t, "monitoring", caddytest.FreeAddr(t))
	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "hello")
	caddytest.Expect(t, client, "hello")
	metrics := string(caddytest.HttpBody(t, "http://"+site+"/metrics", ""))
	for _, line := range []string{
		`caddy_tcplock_held{lock="demo"} 1`,
		`caddy_tcplock_hook_runs_total{lock="demo",moment="activate",result="ok"} 1`,
		`caddy_tcplock_worker_up{lock="demo",slot="1"} 1`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("found no %s, expected it in\n%s", line, metrics)
		}
	}
}

// A printer gets one job at a time, whole, in the order in which they came, and a pause after
// each. The clients have closed their side and gone long before their turn.
func drivePrinter(t *testing.T) { caddytest.PrintJobs(t, caddytest.PrintAndGo) }

// Of three clients of a slow app the first is served and the second waits. The third gets the
// busy page at once, whole, under any host name. The first two are served in the end.
func driveHTTP(t *testing.T) {
	goOn := make(chan struct{})
	app := caddytest.NewService(t, func(conn *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		<-goOn
		if err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nserved %s", req.URL.Path)
		}
	})
	t.Setenv("BUSY_PORT", caddytest.PortOf(t, caddytest.FreeAddr(t)))
	addr, _ := caddytest.LoadExample(t, "http-with-busy-page", app.Addr)

	get := func(path string) *http.Response {
		conn := caddytest.Dial(t, addr)
		caddytest.Send(t, conn, "GET "+path+" HTTP/1.1\r\nHost: app.example\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return &http.Response{Body: http.NoBody}
		}
		// The end of the connection must be a clean one, after the whole body.
		body, err := io.ReadAll(resp.Body)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if err != io.EOF {
			t.Errorf("%s: the connection ended with %v after %q, expected EOF", path, err, body)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp
	}
	served := make(chan string)
	for i := range 2 {
		go func() {
			resp := get(fmt.Sprint("/", i))
			body, _ := io.ReadAll(resp.Body)
			served <- fmt.Sprint(resp.StatusCode, " ", string(body))
		}()
		caddytest.InLine(t, "app", 1, i)
	}
	busy := get("/busy")
	body, _ := io.ReadAll(busy.Body)
	if busy.StatusCode != http.StatusServiceUnavailable || busy.Header.Get("Retry-After") != "5" || !busy.Close ||
		busy.ContentLength != int64(len(body)) || !strings.HasPrefix(string(body), "<!doctype html>") || !strings.HasSuffix(string(body), "</p>") {
		t.Errorf("found %d %v, body %q, expected the whole busy page", busy.StatusCode, busy.Header, body)
	}
	for i := range 2 {
		goOn <- struct{}{}
		if got, want := <-served, fmt.Sprintf("200 served /%d", i); got != want {
			t.Errorf("found %q, expected %q", got, want)
		}
	}
	if _, most, total := app.Counts(); most != 1 || total != 2 {
		t.Errorf("the app had %d connections, up to %d at once, expected 2 and 1", total, most)
	}
}

// The service answers the first client, and the second one when the first has left.
func driveQuickstart(t *testing.T) {
	t.Setenv("STATUS", caddytest.FreeAddr(t))
	addr, _ := caddytest.LoadExample(t, "quickstart", caddytest.FreeAddr(t))
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "one")
	caddytest.Expect(t, first, "one")
	second := caddytest.Dial(t, addr)
	caddytest.Send(t, second, "two")
	caddytest.InLine(t, "default", 1, 1)
	caddytest.Send(t, first, "uno")
	caddytest.Expect(t, first, "uno")
	first.Close()
	caddytest.Expect(t, second, "two")
}

// A client completes its handshake when it comes, and is served when its turn comes. A client
// that fails the handshake, or leaves the line after it, never reaches the service.
func driveTLS(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr, storage := caddytest.LoadExample(t, "tls", svc.Addr)
	first := handshake(t, addr, storage)
	caddytest.Send(t, first, "one")
	conn := svc.Next(t)
	caddytest.Expect(t, conn, "one")

	second := handshake(t, addr, storage)
	caddytest.Send(t, second, "two")
	caddytest.InLine(t, "default", 1, 1)
	gone := handshake(t, addr, storage)
	caddytest.InLine(t, "default", 1, 2)
	third := handshake(t, addr, storage)
	caddytest.Send(t, third, "three")
	caddytest.InLine(t, "default", 1, 3)
	gone.Close()
	caddytest.InLine(t, "default", 1, 2)
	plain := caddytest.Dial(t, addr)
	caddytest.Send(t, plain, "this is no handshake\r\n")
	caddytest.ExpectClosed(t, plain)
	if untrusting, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "localhost"}); err == nil {
		untrusting.Close()
		t.Error("a client that does not know Caddy's CA made its handshake, expected an error")
	}

	caddytest.Send(t, conn, "bye")
	svc.Leave(conn)
	caddytest.Expect(t, first, "bye")
	caddytest.ExpectEOF(t, first)
	for _, next := range []struct {
		client *tls.Conn
		data   string
	}{{second, "two"}, {third, "three"}} {
		conn = svc.Next(t)
		caddytest.Expect(t, conn, next.data)
		svc.Leave(conn)
		caddytest.ExpectEOF(t, next.client)
	}
	caddytest.InLine(t, "default", 0, 0)
	if _, most, total := svc.Counts(); most != 1 || total != 3 {
		t.Errorf("the service had %d connections, up to %d at once, expected 3 and 1", total, most)
	}
}

// handshake connects with TLS, and trusts only Caddy's own CA. Caddy makes the certificate in
// the background when it starts.
func handshake(t *testing.T, addr, storage string) *tls.Conn {
	t.Helper()
	var client *tls.Conn
	caddytest.Eventually(t, "TLS handshake with a certificate of Caddy's CA", func() bool {
		root, _ := os.ReadFile(filepath.Join(storage, "pki", "authorities", "local", "root.crt"))
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(root) {
			return false
		}
		var err error
		dialer := &net.Dialer{Timeout: caddytest.Patience}
		client, err = tls.DialWithDialer(dialer, "tcp", addr, &tls.Config{RootCAs: roots, ServerName: "localhost"})
		return err == nil
	})
	t.Cleanup(func() { client.Close() })
	_ = client.SetDeadline(time.Now().Add(caddytest.Patience))
	return client
}
