package tcplock_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// watched is a Caddy, the program itself, with two locks that have all that metrics are
// about: "pool", with workers, processes and hooks of every moment, and "line".
type watched struct {
	*program
	config      string // the file
	admin, site string // URLs
	pool, line  string // addresses of the locks
	removed     string // by reload: a worker of the pool, in the config
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	admin, site := freeAddr(t), freeAddr(t)
	w := &watched{admin: "http://" + admin, site: "http://" + site, pool: freeAddr(t), line: freeAddr(t)}
	workers := freeAddr(t) + " " + freeAddr(t)
	w.removed = workers[strings.Index(workers, " "):]
	w.config = filepath.Join(t.TempDir(), "Caddyfile")
	config := fmt.Sprintf(`{
		admin %s
		persist_config off
		layer4 {
			%s {
				route {
					tcplock {
						name pool
						workers %s
						service %s -test.run=^TestWatchedWorker$ {
							env TCPLOCK_TEST_WORKER {l4.tcplock.worker}
							restart every 2
						}
						hold_timeout 1s
						on activate emit admitted
						on release emit gone
						on timeout exec false
						on refuse emit refused
						on idle 1h emit idle
					}
					proxy {l4.tcplock.worker}
				}
			}
			%s {
				route {
					tcplock {
						name line
						max_waiting %d
					}
					proxy %s
				}
			}
		}
	}
	%s {
		bind 127.0.0.1
		metrics
	}`, admin, w.pool, workers, os.Args[0], w.line, longLine, newService(t, echo).addr, w.site)
	if err := os.WriteFile(w.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	w.program = start(t, []string{"XDG_DATA_HOME=" + t.TempDir()}, buildCaddy(t), "run", "--config", w.config)
	eventually(t, "both processes are ready", func() bool {
		resp, err := http.Get(w.admin + "/metrics")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && w.metrics(t)["caddy_tcplock_service_ready"].total() == 2
	})
	return w
}

// TestWatchedWorker is the program of a worker, when Caddy runs it.
func TestWatchedWorker(t *testing.T) {
	address := os.Getenv("TCPLOCK_TEST_WORKER")
	if address == "" {
		return
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer conn.Close()
			echo(conn.(*net.TCPConn))
		}()
	}
}

// longLine is one connection more than is fine for one slot.
const longLine = 11

// drive has connections end in several ways at the pool.
func (w *watched) drive(t *testing.T) {
	t.Helper()
	for range 5 {
		conn := dial(t, w.pool)
		send(t, conn, "hello")
		expect(t, conn, "hello")
		conn.Close()
	}
	overstays := dial(t, w.pool)
	send(t, overstays, "hello")
	expect(t, overstays, "hello")
	expectClosed(t, overstays)
	w.ended(t, 6)
}

// queue fills the line, and returns the one that holds the slot and those who wait. One
// more was refused.
func (w *watched) queue(t *testing.T) (clients []net.Conn) {
	t.Helper()
	for range 1 + longLine {
		clients = append(clients, dial(t, w.line))
	}
	eventually(t, "the line is full", func() bool { return w.metrics(t)["caddy_tcplock_waiting"].total() == longLine })
	expectClosed(t, dial(t, w.line))
	return clients
}

// ended waits until so many connections have ended, and nobody is left.
func (w *watched) ended(t *testing.T, n float64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v connections have ended", n), func() bool {
		m := w.metrics(t)
		return m["caddy_tcplock_connections_total"].total() == n && m["caddy_tcplock_held"].total() == 0
	})
}

// reload has Caddy load a config with one worker less.
func (w *watched) reload(t *testing.T) {
	t.Helper()
	config, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.Replace(config, []byte(w.removed), nil, 1)
	resp, err := http.Post(w.admin+"/load", "text/caddyfile", bytes.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("reload: %s\n%s", resp.Status, answer)
	}
}

// family is all series of one metric.
type family struct{ *dto.MetricFamily }

// total is the sum of what all its series count, those of a histogram its observations.
func (f *family) total() (sum float64) {
	if f == nil {
		return 0
	}
	for _, m := range f.GetMetric() {
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// metrics returns what the admin endpoint serves of tcplock's, by name.
func (w *watched) metrics(t *testing.T) map[string]*family {
	t.Helper()
	return w.metricsOf(t, w.admin+"/metrics")
}

// metricsOf reads an endpoint in Prometheus's binary format, the only one that has native
// histograms.
func (w *watched) metricsOf(t *testing.T, url string) map[string]*family {
	t.Helper()
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	from := expfmt.NewDecoder(bytes.NewReader(httpBody(t, url, string(format))), format)
	families := make(map[string]*family)
	for {
		f := &family{new(dto.MetricFamily)}
		switch err := from.Decode(f.MetricFamily); {
		case errors.Is(err, io.EOF):
			return families
		case err != nil:
			t.Fatalf("%s: %v", url, err)
		case strings.HasPrefix(f.GetName(), "caddy_tcplock_"):
			families[f.GetName()] = f
		}
	}
}

// httpBody returns the body of an answer, of a content type if that is not empty.
func httpBody(t *testing.T, url, accept string) []byte {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp := answer(t, http.DefaultClient, req)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, error %v\n%s", url, resp.Status, err, body)
	}
	return body
}
