package caddytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.yaml.in/yaml/v3"
)

// This file reads docs/metrics.md and examples/monitoring, for the tests of both.

// metricDocs are the metrics in docs/metrics.md by name.
type metricDocs map[string]metricDoc

type metricDoc struct {
	Kind    string // counter, gauge or histogram
	Labels  []string
	Example string // a line as it is served
	Query   string
}

// ReadMetricDocs reads the tables of docs/metrics.md.
func ReadMetricDocs(t *testing.T) metricDocs {
	t.Helper()
	docs := make(metricDocs)
	for _, cells := range TableRows(t, "docs/metrics.md") {
		if len(cells) != 4 || !strings.HasPrefix(cells[0], "`") {
			continue
		}
		name, last := CodeSpans(cells[0])[0], CodeSpans(cells[3])
		if _, twice := docs[name]; twice || len(last) != 2 {
			t.Fatalf("docs/metrics.md: found %s twice, or %q, expected it once, with an example and a query", name, last)
		}
		docs[name] = metricDoc{Kind: cells[1], Labels: CodeSpans(cells[2]), Example: last[0], Query: last[1]}
	}
	return docs
}

// HistogramQueries returns the queries in docs/metrics.md that differ by the kind of histogram.
func HistogramQueries(t *testing.T) (classic, native []string) {
	t.Helper()
	for _, cells := range TableRows(t, "docs/metrics.md") {
		if len(cells) == 3 && strings.HasPrefix(cells[1], "`") {
			classic, native = append(classic, CodeSpans(cells[1])[0]), append(native, CodeSpans(cells[2])[0])
		}
	}
	if len(native) == 0 {
		t.Fatal("docs/metrics.md: found no table of classic and native queries, expected one")
	}
	return classic, native
}

// TableRows returns the cells of all tables of a Markdown file.
func TableRows(t *testing.T, path string) (rows [][]string) {
	t.Helper()
	const pipe = "\x00" // stands for a pipe inside a cell
	for line := range strings.Lines(strings.ReplaceAll(ReadDoc(t, path), `\|`, pipe)) {
		row, ok := strings.CutPrefix(strings.TrimSpace(line), "|")
		if !ok {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cell), pipe, "|")
		}
		rows = append(rows, cells)
	}
	return rows
}

// ReadDoc returns the contents of a file of the repository.
func ReadDoc(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(Root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// CodeSpans returns the texts between backticks.
func CodeSpans(markdown string) (spans []string) {
	for _, span := range codeSpan.FindAllStringSubmatch(markdown, -1) {
		spans = append(spans, span[1])
	}
	return spans
}

// LabelsOf returns the labels that a series has in Prometheus.
func (docs metricDocs) LabelsOf(series string) (labels []string, known bool) {
	labels = []string{"job", "instance"}
	switch series { // series that Prometheus makes itself
	case "up":
		return labels, true
	case "ALERTS":
		return append(labels, "alertname", "alertstate"), true
	}
	doc, known := docs[series]
	if known {
		return append(labels, doc.Labels...), true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if name, ok := strings.CutSuffix(series, suffix); ok && docs[name].Kind == "histogram" {
			if suffix == "_bucket" {
				labels = append(labels, "le")
			}
			return append(labels, docs[name].Labels...), true
		}
	}
	return nil, false
}

// Parts of a query. PromqlMatcher finds the names of labels in a selector.
var (
	promqlString   = regexp.MustCompile(`"[^"]*"`)
	promqlSelector = regexp.MustCompile(`(\w+)\s*\{([^}]*)\}`)
	PromqlMatcher  = regexp.MustCompile(`(\w+)\s*[=!]`)
	promqlWindow   = regexp.MustCompile(`\[[^]]*\]`)
	promqlGrouping = regexp.MustCompile(`\b(?:by|on|group_left)\s*\(([^)]*)\)`)
	promqlWord     = regexp.MustCompile(`\b[a-zA-Z_]\w*`)
)

// promqlWords are the words of PromQL that the queries use.
var promqlWords = strings.Fields(`and or unless sum min max count by on group_left rate increase delta
	avg_over_time max_over_time histogram_quantile histogram_fraction histogram_sum histogram_count`)

// Check returns an error if a query uses metrics or labels that are not documented. It does not
// check the syntax: promtool does.
func (docs metricDocs) Check(query string) error {
	query = promqlString.ReplaceAllString(query, "")
	for _, found := range promqlSelector.FindAllStringSubmatch(query, -1) {
		labels, _ := docs.LabelsOf(found[1])
		for _, label := range PromqlMatcher.FindAllStringSubmatch(found[2], -1) {
			if !slices.Contains(labels, label[1]) {
				return fmt.Errorf("found label %s of %s, expected one of %q", label[1], found[1], labels)
			}
		}
	}
	query = promqlWindow.ReplaceAllString(promqlSelector.ReplaceAllString(query, "$1"), "")
	var all []string // labels
	for _, name := range promqlWord.FindAllString(promqlGrouping.ReplaceAllString(query, ""), -1) {
		labels, known := docs.LabelsOf(name)
		if !known && !slices.Contains(promqlWords, name) {
			return fmt.Errorf("found %s, expected metrics of docs/metrics.md", name)
		}
		all = append(all, labels...)
	}
	for _, found := range promqlGrouping.FindAllStringSubmatch(query, -1) {
		for _, label := range promqlWord.FindAllString(found[1], -1) {
			if !slices.Contains(all, label) {
				return fmt.Errorf("found label %s, expected one of %q", label, all)
			}
		}
	}
	return nil
}

// AlertRule is a rule of examples/monitoring.
type AlertRule struct{ Alert, Expr string }

// AlertRules returns the alert rules of examples/monitoring.
func AlertRules(t *testing.T) (rules []AlertRule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []AlertRule }
	}
	if err := yaml.Unmarshal(ReadExample(t, "monitoring", "tcplock.rules.yml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// DashboardQueries returns all queries of the dashboard, with its variables filled in. It cuts "> 0"
// off, which only hides series that are 0.
func DashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	var dashboard any
	if err := json.Unmarshal(ReadExample(t, "monitoring", "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".+", "$lock", ".+")
	add := func(query string) { queries = append(queries, strings.TrimSuffix(fill.Replace(query), " > 0")) }
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			if query, ok := v["expr"].(string); ok {
				add(query)
			}
			if values := labelValues.FindStringSubmatch(fmt.Sprint(v["definition"])); values != nil {
				add(fmt.Sprintf("count by (%s) (%s)", values[2], values[1]))
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				walk(v[key])
			}
		}
	}
	walk(dashboard)
	return queries
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// AllQueries returns the queries of docs/metrics.md, the alerts and the dashboard.
func AllQueries(t *testing.T) []string {
	t.Helper()
	classic, native := HistogramQueries(t)
	queries := slices.Concat(classic, native, DashboardQueries(t))
	for _, doc := range ReadMetricDocs(t) {
		queries = append(queries, doc.Query)
	}
	for _, rule := range AlertRules(t) {
		queries = append(queries, rule.Expr)
	}
	return queries
}

// Watched is the Caddy program with two locks whose metrics have all series: "pool", with workers,
// processes and hooks of every moment, and "line", whose line has a limit.
type Watched struct {
	*Program
	config      string // the file
	Admin, Site string // URLs
	Pool, line  string // addresses of the locks
	removed     string // the part of the config that Reload removes: a worker of the pool
}

// StartWatched starts the program, and waits until both processes of the pool are ready.
func StartWatched(t *testing.T) *Watched {
	t.Helper()
	admin, site := FreeAddr(t), FreeAddr(t)
	w := &Watched{Admin: "http://" + admin, Site: "http://" + site, Pool: FreeAddr(t), line: FreeAddr(t)}
	workers := FreeAddr(t) + " " + FreeAddr(t)
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
						service %s {
							env %s {l4.tcplock.worker}
							restart every 2
						}
						hold_timeout 1s
						on activate emit admitted
						on release emit gone
						on timeout exec false
						on refuse emit refused
						on idle 1h emit idle
					}
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
	}`, admin, w.Pool, workers, os.Args[0], workerEnv, w.line, LongLine, NewService(t, Echo).Addr, w.Site)
	if err := os.WriteFile(w.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Program = Start(t, []string{"XDG_DATA_HOME=" + t.TempDir()}, Caddy(t), "run", "--config", w.config)
	Eventually(t, "both processes are ready", func() bool {
		resp, err := http.Get(w.Admin + "/metrics")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && w.Metrics(t)["caddy_tcplock_service_ready"].Total() == 2
	})
	return w
}

// LongLine is the limit of the line, one more than the alert on long lines accepts for one slot.
const LongLine = 11

// Drive makes connections to the pool, which end in different ways.
func (w *Watched) Drive(t *testing.T) {
	t.Helper()
	for range 5 {
		conn := Dial(t, w.Pool)
		Send(t, conn, "hello")
		Expect(t, conn, "hello")
		conn.Close()
	}
	overstays := Dial(t, w.Pool)
	Send(t, overstays, "hello")
	Expect(t, overstays, "hello")
	ExpectClosed(t, overstays)
	w.ended(t, 6)
}

// Queue fills the line, and returns the holder and the waiters. One more client is refused.
func (w *Watched) Queue(t *testing.T) (clients []net.Conn) {
	t.Helper()
	for range 1 + LongLine {
		clients = append(clients, Dial(t, w.line))
	}
	Eventually(t, "the line is full", func() bool { return w.Metrics(t)["caddy_tcplock_waiting"].Total() == LongLine })
	ExpectClosed(t, Dial(t, w.line))
	return clients
}

// ended waits until n connections have ended and no slot is held.
func (w *Watched) ended(t *testing.T, n float64) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%v connections have ended", n), func() bool {
		m := w.Metrics(t)
		return m["caddy_tcplock_connections_total"].Total() == n && m["caddy_tcplock_held"].Total() == 0
	})
}

// Reload loads a config with one worker less.
func (w *Watched) Reload(t *testing.T) {
	t.Helper()
	config, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.Replace(config, []byte(w.removed), nil, 1)
	resp, err := http.Post(w.Admin+"/load", "text/caddyfile", bytes.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("reload: %s\n%s", resp.Status, answer)
	}
}

// Family is all series of one metric.
type Family struct{ *dto.MetricFamily }

// Total is the sum of the values of all series; for a histogram, of the counts.
func (f *Family) Total() (sum float64) {
	if f == nil {
		return 0
	}
	for _, m := range f.GetMetric() {
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// Metrics returns tcplock's metrics by name, from the admin endpoint.
func (w *Watched) Metrics(t *testing.T) map[string]*Family {
	t.Helper()
	return w.MetricsOf(t, w.Admin+"/metrics")
}

// MetricsOf returns tcplock's metrics by name, from this URL. It uses Prometheus's binary format, the
// only one with native histograms.
func (w *Watched) MetricsOf(t *testing.T, url string) map[string]*Family {
	t.Helper()
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	from := expfmt.NewDecoder(bytes.NewReader(HttpBody(t, url, string(format))), format)
	families := make(map[string]*Family)
	for {
		f := &Family{new(dto.MetricFamily)}
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

// HttpBody returns the body of an answer. accept is the content type to ask for; "": any.
func HttpBody(t *testing.T, url, accept string) []byte {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp := Answer(t, http.DefaultClient, req)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, error %v\n%s", url, resp.Status, err, body)
	}
	return body
}
