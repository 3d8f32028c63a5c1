package monitoring_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A real Prometheus with the example's config scrapes a real Caddy, once with classic
// and once with native histograms. All queries of docs/metrics.md and of the dashboard
// have a value, and alerts come and go.
func TestPrometheus(t *testing.T) {
	caddytest.FindProgram(t, "prometheus")
	w := caddytest.StartWatched(t)
	classic, native := startPrometheus(t, w, false), startPrometheus(t, w, true)
	for _, p := range []*prometheus{classic, native} {
		p.has(t, "caddy_tcplock_connections_total") // from here on, increase sees what happens
	}
	w.Drive(t)
	clients := w.Queue(t)
	classic.tries(t)

	classicQueries, nativeQueries := caddytest.HistogramQueries(t)
	for _, query := range classicQueries {
		classic.has(t, query)
	}
	for _, query := range nativeQueries {
		native.has(t, query)
	}
	for _, doc := range caddytest.ReadMetricDocs(t) {
		classic.has(t, doc.Query)
		if doc.Kind != "histogram" {
			native.has(t, doc.Query)
		}
	}
	for _, query := range caddytest.DashboardQueries(t) {
		if !strings.HasPrefix(query, "ALERTS") { // none may fire
			classic.has(t, query)
			native.has(t, query)
		}
	}

	for _, p := range []*prometheus{classic, native} {
		p.fires(t, "TCPLockLineTooLong", fmt.Sprintf("%d connections wait for lock line on %s", caddytest.LongLine, strings.TrimPrefix(w.Admin, "http://")))
		p.fires(t, "TCPLockHookFailing", "The timeout hooks of lock pool on "+strings.TrimPrefix(w.Admin, "http://")+" fail")
	}
	for _, client := range slices.Backward(clients) { // the holder last
		client.Close()
	}
	caddytest.Eventually(t, "the line is no longer too long", func() bool { return classic.alerts(t)["TCPLockLineTooLong"] == "" })
	w.Stop(t)
	classic.fires(t, "TCPLockNotScraped", "Prometheus cannot reach "+strings.TrimPrefix(w.Admin, "http://"))
}

// Prometheus reads the files, the queries and the metrics, and the alerts do what their tests
// say.
func TestPromtool(t *testing.T) {
	promtool := caddytest.FindProgram(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "../../examples/monitoring/prometheus.yml"},
		{"check", "rules", "../../examples/monitoring/tcplock.rules.yml", queriesAsRules(t)},
		{"test", "rules", "../../examples/monitoring/tcplock.test.yml"},
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	t.Run("served", func(t *testing.T) {
		w := caddytest.StartWatched(t)
		lint := caddytest.Start(t, nil, caddytest.FindProgram(t, "promtool"), "check", "metrics")
		for line := range strings.Lines(string(caddytest.HttpBody(t, w.Admin+"/metrics", ""))) {
			if strings.Contains(line, "caddy_tcplock_") {
				lint.Types(t, line)
			}
		}
		if out, err := lint.Result(t); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// queriesAsRules writes all queries into a rules file.
func queriesAsRules(t *testing.T) (path string) {
	t.Helper()
	var rules []map[string]string
	for i, query := range caddytest.AllQueries(t) {
		rules = append(rules, map[string]string{"record": fmt.Sprint("query:", i), "expr": query})
	}
	file, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "queries", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "queries.rules.yml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// prometheus is a Prometheus that the test has started.
type prometheus struct {
	*caddytest.Program
	api string // URL
}

// startPrometheus starts a Prometheus with the example's files, but with short intervals.
func startPrometheus(t *testing.T, w *caddytest.Watched, native bool) *prometheus {
	t.Helper()
	dir, addr := t.TempDir(), caddytest.FreeAddr(t)
	config := strings.NewReplacer(
		"localhost:2019", strings.TrimPrefix(w.Admin, "http://"),
		"15s", "200ms",
	).Replace(string(caddytest.ReadExample(t, "monitoring", "prometheus.yml")))
	rules := regexp.MustCompile(`for: \d+m`).ReplaceAll(caddytest.ReadExample(t, "monitoring", "tcplock.rules.yml"), []byte("for: 1s"))
	file := filepath.Join(dir, "prometheus.yml")
	args := []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + addr}
	write := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "tcplock.rules.yml"), string(rules))
	write(file, config)
	if native {
		// The file has comments for both: Prometheus 3.8 and later, and earlier versions.
		write(file, strings.Replace(config, "# scrape_native", "scrape_native", 1))
		if exec.Command(caddytest.FindProgram(t, "promtool"), "check", "config", file).Run() != nil {
			write(file, config)
			args = append(args, "--enable-feature=native-histograms")
		}
	}
	p := &prometheus{caddytest.Start(t, nil, caddytest.FindProgram(t, "prometheus"), args...), "http://" + addr + "/api/v1/"}
	caddytest.Eventually(t, "Prometheus is there", func() bool {
		resp, err := http.Get("http://" + addr + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return p
}

// has waits until a query has a value.
func (p *prometheus) has(t *testing.T, query string) {
	t.Helper()
	caddytest.Eventually(t, "there is a value of "+query, func() bool {
		var answer struct {
			Result []struct {
				Value     []any
				Histogram []any
			}
		}
		p.get(t, "query?query="+url.QueryEscape(query), &answer)
		for _, series := range answer.Result {
			if len(series.Histogram) == 2 {
				return true
			}
			if value, err := strconv.ParseFloat(series.Value[1].(string), 64); err == nil && !math.IsNaN(value) {
				return true
			}
		}
		return false
	})
}

// tries runs the queries in the example's README.md as they stand there.
func (p *prometheus) tries(t *testing.T) {
	t.Helper()
	commands, err := caddytest.ReadCommands("examples/monitoring/README.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, c := range commands {
		if !strings.HasPrefix(c.Text, "promtool query ") {
			continue
		}
		ran++
		command := strings.ReplaceAll(c.Text, "http://localhost:9090", strings.TrimSuffix(p.api, "/api/v1/"))
		caddytest.Eventually(t, c.Text+" finds a lock", func() bool {
			out, err := exec.Command("sh", "-c", command).CombinedOutput()
			return err == nil && strings.Contains(string(out), "lock=")
		})
	}
	if ran == 0 {
		t.Error("examples/monitoring/README.md: found no query, expected at least one")
	}
}

// fires waits until an alert fires, with this summary.
func (p *prometheus) fires(t *testing.T, alert, summary string) {
	t.Helper()
	caddytest.Eventually(t, fmt.Sprintf("%s fires: %s", alert, summary), func() bool { return p.alerts(t)[alert] == summary })
}

// alerts returns the summaries of the alerts that fire.
func (p *prometheus) alerts(t *testing.T) map[string]string {
	t.Helper()
	var answer struct {
		Alerts []struct {
			State               string
			Labels, Annotations map[string]string
		}
	}
	p.get(t, "alerts", &answer)
	firing := make(map[string]string)
	for _, alert := range answer.Alerts {
		if alert.State == "firing" {
			firing[alert.Labels["alertname"]] = alert.Annotations["summary"]
		}
	}
	return firing
}

// get reads the data of an answer.
func (p *prometheus) get(t *testing.T, path string, data any) {
	t.Helper()
	answer := struct{ Data any }{data}
	if err := json.Unmarshal(caddytest.HttpBody(t, p.api+path, ""), &answer); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
