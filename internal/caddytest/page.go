package caddytest

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// PageConfig returns a Caddyfile with a lock in front of the service, and a site with these
// directives.
func PageConfig(lock, service, site, directives string) string {
	config := LockConfig(lock, "tcplock", service) + fmt.Sprintf("http://%s {\n%s\n}\n", site, directives)
	// A goroutine of the cleaner sleeps for 5 s now and then, and LeakCheck would wait for it.
	return strings.Replace(config, "admin off", "admin off\nstorage_clean_interval off", 1)
}

// PageServer starts Caddy with such a Caddyfile. It returns the address of the lock and the URL of
// the site.
func PageServer(t *testing.T, service, directives string) (lock, url string) {
	t.Helper()
	lock, site := FreeAddr(t), FreeAddr(t)
	Load(t, PageConfig(lock, service, site, directives))
	return lock, "http://" + site + "/"
}

// PageClient uses a new connection for each request, so that none stays open.
var PageClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: Patience}}

// Answer sends a request that changes nothing. It tries again after an error: just after a reload, a
// request may reach the server of the old config, which closes the connection.
func Answer(t *testing.T, client *http.Client, req *http.Request) (resp *http.Response) {
	t.Helper()
	Eventually(t, "an answer from "+req.URL.Host, func() bool {
		var err error
		resp, err = client.Do(req)
		return err == nil
	})
	return resp
}

// Fetch makes a request and reads the answer's body.
func Fetch(t *testing.T, method, url, accept string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp := Answer(t, PageClient, req)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// ParseConfig returns Caddy's config of a Caddyfile.
func ParseConfig(t *testing.T, caddyfile string) *caddy.Config {
	t.Helper()
	cfg := new(caddy.Config)
	if err := json.Unmarshal(Adapt(t, caddyfile), cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Viewer reads the stream of a status page as a browser does, and keeps the state it has got.
type Viewer struct {
	Resp    *http.Response
	updates chan string // the events; closed at the end of the stream

	Names   []string
	Locks   map[string]status.Lock
	Samples map[string][]float64 // the values of "waiting" by lock
}

// OpenStream opens the stream of a status page, with this content encoding ("": none).
func OpenStream(t *testing.T, client *http.Client, url, encoding string) *Viewer {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if encoding != "" {
		req.Header.Set("Accept-Encoding", encoding)
	}
	resp := Answer(t, client, req)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Content-Encoding") != encoding {
		t.Fatalf("found %s %v, expected a stream, with encoding %q", resp.Status, resp.Header, encoding)
	}
	v := &Viewer{Resp: resp, updates: make(chan string, 1000), Locks: make(map[string]status.Lock), Samples: make(map[string][]float64)}
	go v.read(encoding)
	return v
}

func (v *Viewer) read(encoding string) {
	defer close(v.updates)
	var body io.Reader = v.Resp.Body
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
			v.updates <- event + " " + data
		}
	}
}

// Until reads events until ok returns true.
func (v *Viewer) Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(Patience)
	for !ok() {
		select {
		case update, open := <-v.updates:
			if !open {
				t.Fatalf("the stream has ended, expected: %s", what)
			}
			v.take(t, update)
		case <-timeout:
			t.Fatalf("the stream did not say: %s; the viewer knows %+v", what, v.Locks)
		}
	}
}

func (v *Viewer) take(t *testing.T, update string) {
	t.Helper()
	event, data, _ := strings.Cut(update, " ")
	var told struct {
		Names []string
		Locks json.RawMessage
	}
	if err := json.Unmarshal([]byte(data), &told); err != nil {
		t.Fatalf("%s: %v", update, err)
	}
	read := func(into any) {
		if err := json.Unmarshal(told.Locks, into); err != nil {
			t.Fatalf("%s: %v", update, err)
		}
	}
	switch event {
	case "history":
		var past map[string]struct{ Waiting []float64 }
		read(&past)
		for name, series := range past {
			v.Samples[name] = series.Waiting
		}
	case "locks":
		var locks []status.Lock
		read(&locks)
		for _, lock := range locks {
			v.Locks[lock.Name] = lock
		}
		if told.Names != nil {
			v.Names = told.Names
		}
	case "sample":
		var latest map[string][]*float64
		read(&latest)
		for name, figures := range latest {
			v.Samples[name] = append(v.Samples[name], *figures[0])
		}
	default:
		t.Fatalf("found event %q", update)
	}
}

// Ended checks that the stream ends without an error.
func (v *Viewer) Ended(t *testing.T) {
	t.Helper()
	timeout := time.After(Patience)
	for {
		select {
		case _, open := <-v.updates:
			if !open {
				if _, err := v.Resp.Body.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("the stream ended with %v, expected EOF", err)
				}
				return
			}
		case <-timeout:
			t.Fatal("the stream has not ended")
		}
	}
}

// Knows waits until the stream has shown so many holders and waiters.
func (v *Viewer) Knows(t *testing.T, lock string, held, waiting int) {
	t.Helper()
	v.Until(t, fmt.Sprintf("lock %s has %d holders and %d waiters", lock, held, waiting), func() bool {
		l := v.Locks[lock]
		return l.Held == held && l.Waiting == waiting && len(l.Holders) == held && len(l.Waiters) == waiting
	})
}
