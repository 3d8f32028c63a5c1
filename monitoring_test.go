package tcplock_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Nothing asks for a metric or a label that docs/metrics.md does not name, the examples
// there are of what they stand beside, and the dashboard shows each metric.
func TestMonitoringNames(t *testing.T) {
	docs := readMetricDocs(t)
	shown := strings.Join(dashboardQueries(t), "\n")
	for name, doc := range docs {
		series, rest, _ := strings.Cut(doc.example, "{")
		set, value, _ := strings.Cut(rest, "} ")
		var labels []string
		for _, label := range promqlMatcher.FindAllStringSubmatch(set, -1) {
			if label[1] != "le" {
				labels = append(labels, label[1])
			}
		}
		_, known := docs.labelsOf(series)
		if _, err := strconv.ParseFloat(value, 64); err != nil || !known || !strings.HasPrefix(series, name) || !slices.Equal(labels, doc.labels) {
			t.Errorf("%s: found the example %q, expected a value with the labels %q", name, doc.example, doc.labels)
		}
		if !strings.Contains(doc.query, name) {
			t.Errorf("%s: found the query %q, expected one for this metric", name, doc.query)
		}
		if !strings.Contains(shown, name) {
			t.Errorf("%s: found no panel in the dashboard, expected one", name)
		}
	}
	for _, query := range allQueries(t) {
		if err := docs.check(query); err != nil {
			t.Errorf("%v, in %s", err, query)
		}
	}
}

// allQueries are those of docs/metrics.md, the alerts and the dashboard.
func allQueries(t *testing.T) []string {
	t.Helper()
	classic, native := histogramQueries(t)
	queries := slices.Concat(classic, native, dashboardQueries(t))
	for _, doc := range readMetricDocs(t) {
		queries = append(queries, doc.query)
	}
	for _, rule := range alertRules(t) {
		queries = append(queries, rule.Expr)
	}
	return queries
}

// Prometheus understands the files and the queries, the alerts do what their tests say,
// and each alert is tested and explained.
func TestMonitoringFiles(t *testing.T) {
	t.Run("each alert is tested and explained", func(t *testing.T) {
		rules := alertRules(t)
		var explained []string
		for _, cells := range tableRows(t, "examples/monitoring/README.md") {
			explained = append(explained, codeSpans(cells[0])...)
		}
		if !slices.EqualFunc(rules, explained, func(rule alertRule, name string) bool { return rule.Alert == name }) {
			t.Errorf("README.md: found %q, expected the alerts in their order", explained)
		}
		tests := string(readExample(t, "monitoring", "tcplock.test.yml"))
		for _, rule := range rules {
			if !strings.Contains(tests, fmt.Sprintf("alertname=%q", rule.Alert)) {
				t.Errorf("found no test of %s, expected one", rule.Alert)
			}
		}
		eachStops(t)
	})
	t.Run("promtool", func(t *testing.T) {
		promtool := findProgram(t, "promtool")
		for _, args := range [][]string{
			{"check", "config", "examples/monitoring/prometheus.yml"},
			{"check", "rules", "examples/monitoring/tcplock.rules.yml", queriesAsRules(t)},
			{"test", "rules", "examples/monitoring/tcplock.test.yml"},
		} {
			if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	})
}

// eachStops makes sure that each test of the alerts has a time at which none fires.
func eachStops(t *testing.T) {
	t.Helper()
	var file struct {
		Tests []struct {
			Name   string
			Checks []struct {
				Fire []any `yaml:"exp_samples"`
			} `yaml:"promql_expr_test"`
		}
	}
	if err := yaml.Unmarshal(readExample(t, "monitoring", "tcplock.test.yml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, test := range file.Tests {
		quiet := 0
		for _, check := range test.Checks {
			if len(check.Fire) == 0 {
				quiet++
			}
		}
		if quiet == 0 {
			t.Errorf("%s: found no time at which no alert fires, expected one", test.Name)
		}
	}
}

// queriesAsRules writes all queries into a rules file.
func queriesAsRules(t *testing.T) (path string) {
	t.Helper()
	var rules []map[string]string
	for i, query := range allQueries(t) {
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

// docs/metrics.md names exactly what a Caddy serves, and how much of it.
func TestMetricsServed(t *testing.T) {
	docs, text := readMetricDocs(t), readDoc(t, "docs/metrics.md")
	w := startWatched(t)
	for from, families := range map[string]map[string]*family{"admin endpoint": w.metrics(t), "site": w.metricsOf(t, w.site+"/metrics")} {
		for name, f := range families {
			doc, known := docs[name]
			if !known || doc.kind != strings.ToLower(f.GetType().String()) || f.GetHelp() == "" {
				t.Errorf("%s: found %s %s, help %q, expected what docs/metrics.md says: %+v", from, f.GetType(), name, f.GetHelp(), doc)
			}
			for _, m := range f.GetMetric() {
				var labels []string
				for _, label := range m.GetLabel() {
					labels = append(labels, label.GetName())
					if label.GetName() != "lock" && label.GetName() != "slot" && !strings.Contains(text, "`"+label.GetValue()+"`") {
						t.Errorf("%s: %s: found %s %q, expected one that docs/metrics.md explains", from, name, label.GetName(), label.GetValue())
					}
				}
				if slices.Sort(labels); !slices.Equal(labels, slices.Sorted(slices.Values(doc.labels))) {
					t.Errorf("%s: %s: found labels %q, expected %q", from, name, labels, doc.labels)
				}
			}
		}
		for name := range docs {
			if families[name] == nil {
				t.Errorf("%s: found no %s, expected what docs/metrics.md names", from, name)
			}
		}
	}
	if t.Failed() {
		return
	}
	t.Run("number of series", func(t *testing.T) { countSeries(t, w) })
	t.Run("promtool check metrics", func(t *testing.T) {
		lint := start(t, nil, findProgram(t, "promtool"), "check", "metrics")
		for line := range strings.Lines(string(httpBody(t, w.admin+"/metrics", ""))) {
			if strings.Contains(line, "caddy_tcplock_") {
				lint.types(t, line)
			}
		}
		if out, err := lint.result(t); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("reload", func(t *testing.T) {
		w.drive(t)
		for range 2 { // each worker has a holder
			holder := dial(t, w.pool)
			send(t, holder, "hello")
			expect(t, holder, "hello")
		}
		before := w.metrics(t)
		w.reload(t)
		after := w.metrics(t)
		for name, doc := range docs {
			if doc.kind != "gauge" && after[name].total() < before[name].total() {
				t.Errorf("%s: found %v after a reload, expected at least the %v from before", name, after[name].total(), before[name].total())
			}
		}
		if n := len(after["caddy_tcplock_worker_up"].GetMetric()); n != 1 {
			t.Errorf("found %d workers after one was removed, expected 1", n)
		}
	})
}

// countSeries compares the number of series, before anything has happened, with what
// docs/metrics.md says, for classic and for native histograms.
func countSeries(t *testing.T, w *watched) {
	text := strings.ReplaceAll(readDoc(t, "docs/metrics.md"), "\n", " ")
	numbers := func(sentence string) (n []int) {
		found := regexp.MustCompile(sentence).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("docs/metrics.md: found nothing like %q", sentence)
		}
		for _, number := range found[1:] {
			i, _ := strconv.Atoi(number)
			n = append(n, i)
		}
		return n
	}
	classic := numbers(`A lock has (\d+) series, (\d+) more for each moment that has hooks, (\d+) for each slot with a worker or a process, and (\d+) more for each process`)
	native := numbers(`With native histograms alone it is (\d+), and (\d+) for each moment`)
	series, histograms, buckets := 0, 0, 0
	for _, f := range w.metrics(t) {
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				histograms, buckets = histograms+1, len(h.GetBucket())
			} else {
				series++
			}
		}
	}
	const locks, moments, slots = 2, 5, 2 // in watched's config; each slot has a process
	perHistogram := buckets + 3           // +Inf, sum and count
	if found, want := series+histograms*perHistogram, locks*classic[0]+moments*classic[1]+slots*(classic[2]+classic[3]); found != want {
		t.Errorf("found %d series, expected %d as docs/metrics.md says", found, want)
	}
	if found, want := series+histograms, locks*native[0]+moments*native[1]+slots*(classic[2]+classic[3]); found != want {
		t.Errorf("found %d series with native histograms, expected %d as docs/metrics.md says", found, want)
	}
}
