package tcplock_test

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
)

// examples says how each folder of examples/ is driven.
var examples = map[string]func(t *testing.T){
	"http-with-busy-page": driveHTTP,
	"libreoffice":         func(t *testing.T) { loadExample(t, "libreoffice", freeAddr(t)) }, // driven in libreoffice_test.go
	"libreoffice-pool":    validatePool,                                                      // driven in libreoffice_pool_test.go
	"monitoring":          driveMonitoring,                                                   // Prometheus is in monitoring_prometheus_test.go
	"postgres":            drivePostgres,
	"printer":             drivePrinter,
	"quickstart":          driveQuickstart,
	"tls":                 driveTLS,
}

// None of the examples is only shown: each is formatted, explained,
// valid as it is, and does over real sockets what it promises.
func TestExamples(t *testing.T) {
	folders, err := os.ReadDir("examples")
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
	config := readExample(t, name, "Caddyfile")
	if !bytes.Equal(caddyfile.Format(config), config) {
		t.Error("Caddyfile: not formatted, run caddy fmt")
	}
	readExample(t, name, "README.md")
	for _, variable := range regexp.MustCompile(`\{\$(\w+)`).FindAllSubmatch(config, -1) {
		t.Setenv(string(variable[1]), "") // which will restore it
		os.Unsetenv(string(variable[1]))
	}
	var cfg caddy.Config
	if err := json.Unmarshal(keptToTest(t, adapt(t, string(config))), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&cfg); err != nil {
		t.Errorf("as it is: %v", err)
	}
}

func readExample(t *testing.T, name, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("examples", name, file))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// loadExample starts Caddy in this process with an example's Caddyfile, in front of the
// service, and returns the address of the lock and Caddy's storage folder.
func loadExample(t *testing.T, name, service string) (addr, storage string) {
	t.Helper()
	addr = freeAddr(t)
	t.Setenv("LOCK", addr)
	t.Setenv("SERVICE", service)
	cfg := keptToTest(t, adapt(t, string(readExample(t, name, "Caddyfile"))))
	if err := tryLoadJSON(t, cfg); err != nil {
		t.Fatalf("load: %v", err)
	}
	var kept struct {
		Storage struct{ Root string }
	}
	_ = json.Unmarshal(cfg, &kept)
	return addr, kept.Storage.Root
}

// validatePool loads the example without starting it, and so without its processes.
func validatePool(t *testing.T) {
	var cfg caddy.Config
	if err := json.Unmarshal(keptToTest(t, adapt(t, string(readExample(t, "libreoffice-pool", "Caddyfile")))), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&cfg); err != nil {
		t.Fatal(err)
	}
}

// keptToTest adds to a config what global adds to a Caddyfile, and a storage folder.
func keptToTest(t *testing.T, config []byte) []byte {
	t.Helper()
	var cfg map[string]any
	if err := json.Unmarshal(config, &cfg); err != nil {
		t.Fatal(err)
	}
	storage, err := os.MkdirTemp("", "tcplock-storage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Caddy tidies it in the background, still a moment after its stop.
		eventually(t, "storage removed", func() bool { return os.RemoveAll(storage) == nil })
	})
	cfg["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	cfg["storage"] = map[string]any{"module": "file_system", "root": storage}
	config, err = json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// A client is served, and the site says so.
func driveMonitoring(t *testing.T) {
	site := freeAddr(t)
	t.Setenv("METRICS", site)
	addr, _ := loadExample(t, "monitoring", freeAddr(t))
	client := dial(t, addr)
	send(t, client, "hello")
	expect(t, client, "hello")
	metrics := string(httpBody(t, "http://"+site+"/metrics", ""))
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

// A printer gets one job at a time, whole, in the order in which they came, and a pause
// after each, although the clients closed their side and went long before their turn.
func drivePrinter(t *testing.T) {
	goClient := func(t *testing.T, addr string, job []byte) {
		conn := dial(t, addr)
		go func() {
			_, _ = conn.Write(job)
			conn.Close()
		}()
	}
	t.Run("Go clients", func(t *testing.T) { printJobs(t, goClient) })
	t.Run("nc -N", func(t *testing.T) {
		nc := netcat(t)
		printJobs(t, func(t *testing.T, addr string, job []byte) {
			printByNetcat(t, nc, addr, job)
		}, goClient)
	})
}

// printJobs sends jobs by each client in turn, the next when the one before is in line.
func printJobs(t *testing.T, clients ...func(t *testing.T, addr string, job []byte)) {
	const settle = 500 * time.Millisecond // the Caddyfile says so
	printer := newService(t, nil)
	addr, _ := loadExample(t, "printer", printer.addr)
	var jobs [][]byte
	for i := range 6 {
		size := 100 << (4 * (i % 4)) // up to 400 KiB, more than the sockets hold at times
		jobs = append(jobs, bytes.Repeat([]byte{'0' + byte(i)}, size))
		clients[i%len(clients)](t, addr, jobs[i])
		inLine(t, "printer", 1, i)
	}
	var done time.Time
	for i, job := range jobs {
		conn := printer.next(t)
		if pause := time.Since(done); pause < settle {
			t.Errorf("job %d came %s after the one before, expected at least %s", i, pause, settle)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, job) {
			t.Errorf("job %d: got %d bytes that begin %.9q, error %v, expected %d that begin %.9q", i, len(got), got, err, len(job), job)
		}
		done = time.Now()
		printer.leave(conn)
	}
	inLine(t, "printer", 0, 0)
	if _, most, total := printer.counts(); most != 1 || total != len(jobs) {
		t.Errorf("the printer had %d connections, up to %d at once, expected %d and 1", total, most, len(jobs))
	}
}

// Of three clients of a slow app the first is being served and the second waits; the
// third gets the busy page at once, whole, by whatever host name it asked. The first
// two are served in the end.
func driveHTTP(t *testing.T) {
	goOn := make(chan struct{})
	app := newService(t, func(conn *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		<-goOn
		if err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nserved %s", req.URL.Path)
		}
	})
	t.Setenv("BUSY_PORT", portOf(t, freeAddr(t)))
	addr, _ := loadExample(t, "http-with-busy-page", app.addr)

	get := func(path string) *http.Response {
		conn := dial(t, addr)
		send(t, conn, "GET "+path+" HTTP/1.1\r\nHost: app.example\r\n\r\n")
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
		inLine(t, "app", 1, i)
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
	if _, most, total := app.counts(); most != 1 || total != 2 {
		t.Errorf("the app had %d connections, up to %d at once, expected 2 and 1", total, most)
	}
}

// A client has its handshake when it comes and is served when its turn comes. Who fails
// the handshake, or leaves the line after it, never reaches the service.
func driveTLS(t *testing.T) {
	svc := newService(t, nil)
	addr, storage := loadExample(t, "tls", svc.addr)
	first := handshake(t, addr, storage)
	send(t, first, "one")
	conn := svc.next(t)
	expect(t, conn, "one")

	second := handshake(t, addr, storage)
	send(t, second, "two")
	inLine(t, "default", 1, 1)
	gone := handshake(t, addr, storage)
	inLine(t, "default", 1, 2)
	third := handshake(t, addr, storage)
	send(t, third, "three")
	inLine(t, "default", 1, 3)
	gone.Close()
	inLine(t, "default", 1, 2)
	plain := dial(t, addr)
	send(t, plain, "this is no handshake\r\n")
	expectClosed(t, plain)
	if untrusting, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "localhost"}); err == nil {
		untrusting.Close()
		t.Error("a client that does not know Caddy's CA made its handshake, expected an error")
	}

	send(t, conn, "bye")
	svc.leave(conn)
	expect(t, first, "bye")
	expectEOF(t, first)
	for _, next := range []struct {
		client *tls.Conn
		data   string
	}{{second, "two"}, {third, "three"}} {
		conn = svc.next(t)
		expect(t, conn, next.data)
		svc.leave(conn)
		expectEOF(t, next.client)
	}
	inLine(t, "default", 0, 0)
	if _, most, total := svc.counts(); most != 1 || total != 3 {
		t.Errorf("the service had %d connections, up to %d at once, expected 3 and 1", total, most)
	}
}

// handshake connects by TLS, trusting Caddy's own CA and nobody else. Caddy makes the
// certificate in the background when it starts.
func handshake(t *testing.T, addr, storage string) *tls.Conn {
	t.Helper()
	var client *tls.Conn
	eventually(t, "TLS handshake with a certificate of Caddy's CA", func() bool {
		root, _ := os.ReadFile(filepath.Join(storage, "pki", "authorities", "local", "root.crt"))
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(root) {
			return false
		}
		var err error
		dialer := &net.Dialer{Timeout: patience}
		client, err = tls.DialWithDialer(dialer, "tcp", addr, &tls.Config{RootCAs: roots, ServerName: "localhost"})
		return err == nil
	})
	t.Cleanup(func() { client.Close() })
	_ = client.SetDeadline(time.Now().Add(patience))
	return client
}
