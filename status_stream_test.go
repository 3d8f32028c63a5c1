package tcplock_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// viewer reads a stream as a browser does, and keeps what it has been told.
type viewer struct {
	resp *http.Response
	news chan string // the events; closed at the stream's end

	names   []string
	locks   map[string]status.Lock
	samples map[string][]float64 // of the figure "waiting"
}

// view opens a stream.
func view(t *testing.T, client *http.Client, url, encoding string) *viewer {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if encoding != "" {
		req.Header.Set("Accept-Encoding", encoding)
	}
	resp := answer(t, client, req)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Content-Encoding") != encoding {
		t.Fatalf("found %s %v, expected a stream, with encoding %q", resp.Status, resp.Header, encoding)
	}
	v := &viewer{resp: resp, news: make(chan string, 1000), locks: make(map[string]status.Lock), samples: make(map[string][]float64)}
	go v.read(encoding)
	return v
}

func (v *viewer) read(encoding string) {
	defer close(v.news)
	var body io.Reader = v.resp.Body
	if encoding == "gzip" {
		var err error
		if body, err = gzip.NewReader(body); err != nil {
			return
		}
	}
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	var event string
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		} else if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			v.news <- event + " " + data
		}
	}
}

// until takes in what comes until ok holds.
func (v *viewer) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for !ok() {
		select {
		case news, open := <-v.news:
			if !open {
				t.Fatalf("the stream has ended, expected: %s", what)
			}
			v.take(t, news)
		case <-timeout:
			t.Fatalf("the viewer was not told: %s; it knows %+v", what, v.locks)
		}
	}
}

func (v *viewer) take(t *testing.T, news string) {
	t.Helper()
	event, data, _ := strings.Cut(news, " ")
	var told struct {
		Names []string
		Locks json.RawMessage
	}
	if err := json.Unmarshal([]byte(data), &told); err != nil {
		t.Fatalf("%s: %v", news, err)
	}
	read := func(into any) {
		if err := json.Unmarshal(told.Locks, into); err != nil {
			t.Fatalf("%s: %v", news, err)
		}
	}
	switch event {
	case "history":
		var past map[string]struct{ Waiting []float64 }
		read(&past)
		for name, series := range past {
			v.samples[name] = series.Waiting
		}
	case "locks":
		var locks []status.Lock
		read(&locks)
		for _, lock := range locks {
			v.locks[lock.Name] = lock
		}
		if told.Names != nil {
			v.names = told.Names
		}
	case "sample":
		var latest map[string][]*float64
		read(&latest)
		for name, figures := range latest {
			v.samples[name] = append(v.samples[name], *figures[0])
		}
	default:
		t.Fatalf("found event %q", news)
	}
}

// ended makes sure that the stream ends, cleanly.
func (v *viewer) ended(t *testing.T) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, open := <-v.news:
			if !open {
				if _, err := v.resp.Body.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("the stream ended with %v, expected EOF", err)
				}
				return
			}
		case <-timeout:
			t.Fatal("the stream has not ended")
		}
	}
}

// knows waits until the viewer has been told so many holders and waiters.
func (v *viewer) knows(t *testing.T, lock string, held, waiting int) {
	t.Helper()
	v.until(t, fmt.Sprintf("lock %s has %d holders and %d waiters", lock, held, waiting), func() bool {
		l := v.locks[lock]
		return l.Held == held && l.Waiting == waiting && len(l.Holders) == held && len(l.Waiters) == waiting
	})
}

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t *testing.T) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), ResponseHeaderTimeout: patience}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Whoever comes or goes at the lock is told to all viewers within a second, by HTTP/1.1,
// compressed, and by HTTP/2.
func TestStatusStream(t *testing.T) {
	svc := newService(t, echo)
	addr, site := freeAddr(t), freeAddr(t)
	// A server of a Caddyfile does not speak HTTP/2 without TLS unless it is told to.
	load(t, strings.Replace(pageConfig(addr, svc.addr, site, "encode {\nmatch header Content-Type text/*\n}\ntcplock_status"), "{\n", "{\nservers {\nprotocols h1 h2c\n}\n", 1))
	leakCheck(t)
	url := "http://" + site + "/"
	viewers := map[string]*viewer{
		"HTTP/1.1": view(t, pageClient, url, ""),
		"gzip":     view(t, pageClient, url, "gzip"),
		"HTTP/2":   view(t, h2c(t), url, ""),
	}
	for name, v := range viewers {
		v.knows(t, "default", 0, 0)
		if two := v.resp.ProtoMajor == 2; two != (name == "HTTP/2") {
			t.Errorf("%s: found %s", name, v.resp.Proto)
		}
	}
	told := func(what string, held, waiting int) {
		t.Helper()
		start := time.Now()
		for name, v := range viewers {
			v.knows(t, "default", held, waiting)
			if late := time.Since(start); late > patience/4 { // a look is due each 250ms
				t.Errorf("%s: told %s after %s, expected within a second", name, what, late)
			}
		}
	}
	first := dial(t, addr)
	told("that one came", 1, 0)
	second := dial(t, addr)
	told("that one waits", 1, 1)
	for name, v := range viewers {
		lock := v.locks["default"]
		if lock.Holders[0].Client != first.LocalAddr().String() || lock.Waiters[0].Client != second.LocalAddr().String() {
			t.Errorf("%s: found %+v, expected %s to hold and %s to wait", name, lock, first.LocalAddr(), second.LocalAddr())
		}
		v.until(t, "samples with somebody in line", func() bool { n := len(v.samples["default"]); return n > 0 && v.samples["default"][n-1] == 1 })
	}
	first.Close()
	told("that one went", 1, 0)
	second.Close()
	told("that all went", 0, 0)
	for _, v := range viewers {
		v.resp.Body.Close()
	}
}

// A reload ends the streams, and who comes again gets the past as if nothing had been; a
// lock that comes or goes with the config is told.
func TestStatusStreamReload(t *testing.T) {
	svc := newService(t, echo)
	addr, url := pageServer(t, svc.addr, "tcplock_status")
	site := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
	leakCheck(t)
	v := view(t, pageClient, url, "")
	waiting := func() bool { n := len(v.samples["default"]); return n > 0 && v.samples["default"][n-1] == 1 }
	first, second := dial(t, addr), dial(t, addr)
	v.until(t, "a sample with one in line", waiting)

	other := freeAddr(t)
	two := strings.Replace(pageConfig(addr, svc.addr, site, "tcplock_status\nheader X-Y z"), "layer4 {", "layer4 {\n"+other+" {\nroute {\ntcplock 2 {\nname other\n}\necho\n}\n}", 1)
	load(t, two)
	v.ended(t)
	v = view(t, pageClient, url, "")
	v.knows(t, "default", 1, 1)
	if !waiting() {
		t.Errorf("found samples %v after a reload, expected the one before it", v.samples["default"])
	}
	v.until(t, "both locks", func() bool { return len(v.names) == 2 })
	v.knows(t, "other", 0, 0)

	load(t, pageConfig(addr, svc.addr, site, "tcplock_status"))
	v.ended(t)
	v = view(t, pageClient, url, "")
	v.until(t, "one lock", func() bool { return len(v.names) == 1 && v.names[0] == "default" })
	v.resp.Body.Close()
	first.Close()
	second.Close()
	inLine(t, "default", 0, 0)
}

// Caddy's end does not wait for viewers, though no grace_period says how long it may.
func TestStatusStreamStop(t *testing.T) {
	site, dir := freeAddr(t), t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(strings.Replace(pageConfig(freeAddr(t), "127.0.0.1:1", site, "tcplock_status"), "grace_period 1s\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := start(t, []string{"XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}, buildCaddy(t), "run", "--config", file)
	server.prints(t, "serving initial configuration")
	v := view(t, pageClient, "http://"+site+"/", "")
	v.knows(t, "default", 0, 0)
	server.stop(t)
	v.ended(t)
}
