package caddytest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Admin is the admin API of a Caddy.
type Admin struct{ Addr string }

// WithAdmin turns on the admin API in a Caddyfile from Global.
func WithAdmin(t *testing.T, caddyfile string) (string, Admin) {
	t.Helper()
	a := Admin{FreeAddr(t)}
	return a.In(caddyfile), a
}

// In turns on this admin API in a Caddyfile from Global.
func (a Admin) In(caddyfile string) string {
	return strings.Replace(caddyfile, "admin off", "admin "+a.Addr, 1)
}

// Ask sends a request and returns the answer and its body. It tries again after an error: just after
// a reload, a request may reach the listener of the old config, which resets it.
func (a Admin) Ask(t *testing.T, method, path string) (resp *http.Response, body string) {
	t.Helper()
	Eventually(t, "the admin API answers "+path, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.Addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		if resp, err = http.DefaultClient.Do(req); err != nil {
			return false
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		body = string(all)
		return err == nil
	})
	return resp, body
}

// Asks is like Ask, but the status must be 200, and it returns the decoded JSON.
func Asks[T any](t *testing.T, a Admin, method, path string) (value T) {
	t.Helper()
	resp, body := a.Ask(t, method, path)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: found status %d: %s", method, path, resp.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, body)
	}
	return value
}

// Lock returns the status of a lock.
func (a Admin) Lock(t *testing.T, name string) status.Lock {
	t.Helper()
	return Asks[status.Lock](t, a, "GET", "/tcplock/locks/"+name)
}

// Refuses sends a request that must be refused, with this status and an error in Caddy's form.
func (a Admin) Refuses(t *testing.T, method, path string, status int, want string) {
	t.Helper()
	resp, body := a.Ask(t, method, path)
	var answer struct{ Error string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || resp.StatusCode != status || answer.Error != want {
		t.Errorf("%s %s: found status %d and %s, expected %d and %q", method, path, resp.StatusCode, body, status, want)
	}
}

// Logged adds a log to a Caddyfile: JSON lines in a file, with more options for the log. It returns
// the Caddyfile and a function that waits for n lines of a logger.
func Logged(t *testing.T, caddyfile, options string) (string, func(logger string, n int) []map[string]any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	caddyfile = strings.Replace(caddyfile, "persist_config off", fmt.Sprintf("persist_config off\nlog {\noutput file %s\nformat json\n%s\n}", file, options), 1)
	return caddyfile, func(logger string, n int) (lines []map[string]any) {
		t.Helper()
		Eventually(t, fmt.Sprintf("%d lines of %s are logged", n, logger), func() bool {
			f, err := os.Open(file)
			if err != nil {
				return n == 0
			}
			defer f.Close()
			lines = nil
			for scanner := bufio.NewScanner(f); scanner.Scan(); {
				var line map[string]any
				if json.Unmarshal(scanner.Bytes(), &line) == nil && line["logger"] == "layer4.handlers.tcplock"+logger {
					lines = append(lines, line)
				}
			}
			return len(lines) >= n
		})
		return lines
	}
}

// Scrape returns the metrics of tcplock by name and labels: the value of a counter or gauge, the
// count of a histogram.
func (a Admin) Scrape(t *testing.T) map[string]float64 {
	t.Helper()
	_, body := a.Ask(t, "GET", "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for name, family := range families {
		short, ours := strings.CutPrefix(name, "caddy_tcplock_")
		if !ours {
			continue
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			values[short+"{"+strings.Join(labels, " ")+"}"] = value
		}
	}
	return values
}

// Measures waits until the metrics have these values.
func (a Admin) Measures(t *testing.T, want map[string]float64) {
	t.Helper()
	var wrong []string
	for end := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
		got := a.Scrape(t)
		wrong = nil
		for name, value := range want {
			if v, ok := got[name]; !ok || v != value {
				wrong = append(wrong, fmt.Sprintf("%s: found %v, expected %v", name, v, value))
			}
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s\nin %v", strings.Join(wrong, "\n"), got)
		}
	}
}

// AsBrowser sends a request as a browser does for a page of another site.
func (a Admin) AsBrowser(t *testing.T, method, path, host string, header map[string]string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+a.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := PageClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}
