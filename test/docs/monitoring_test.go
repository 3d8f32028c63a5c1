package docs_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// docs/metrics.md, the alerts and the dashboard use only metrics and labels that
// docs/metrics.md names. Each example in the manual is of its own metric, and the dashboard
// shows each metric.
func TestMonitoringNames(t *testing.T) {
	docs := caddytest.ReadMetricDocs(t)
	shown := strings.Join(caddytest.DashboardQueries(t), "\n")
	for name, doc := range docs {
		series, rest, _ := strings.Cut(doc.Example, "{")
		set, value, _ := strings.Cut(rest, "} ")
		var labels []string
		for _, label := range caddytest.PromqlMatcher.FindAllStringSubmatch(set, -1) {
			if label[1] != "le" {
				labels = append(labels, label[1])
			}
		}
		_, known := docs.LabelsOf(series)
		if _, err := strconv.ParseFloat(value, 64); err != nil || !known || !strings.HasPrefix(series, name) || !slices.Equal(labels, doc.Labels) {
			t.Errorf("%s: found the example %q, expected a value with the labels %q", name, doc.Example, doc.Labels)
		}
		if !strings.Contains(doc.Query, name) {
			t.Errorf("%s: found the query %q, expected one for this metric", name, doc.Query)
		}
		if !strings.Contains(shown, name) {
			t.Errorf("%s: found no panel in the dashboard, expected one", name)
		}
	}
	for _, query := range caddytest.AllQueries(t) {
		if err := docs.Check(query); err != nil {
			t.Errorf("%v, in %s", err, query)
		}
	}
}

// Each alert is tested and explained.
func TestMonitoringFiles(t *testing.T) {
	rules := caddytest.AlertRules(t)
	var explained []string
	for _, cells := range caddytest.TableRows(t, "examples/monitoring/README.md") {
		explained = append(explained, caddytest.CodeSpans(cells[0])...)
	}
	if !slices.EqualFunc(rules, explained, func(rule caddytest.AlertRule, name string) bool { return rule.Alert == name }) {
		t.Errorf("README.md: found %q, expected the alerts in their order", explained)
	}
	tests := string(caddytest.ReadExample(t, "monitoring", "tcplock.test.yml"))
	for _, rule := range rules {
		if !strings.Contains(tests, fmt.Sprintf("alertname=%q", rule.Alert)) {
			t.Errorf("found no test of %s, expected one", rule.Alert)
		}
	}
	eachStops(t)
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
	if err := yaml.Unmarshal(caddytest.ReadExample(t, "monitoring", "tcplock.test.yml"), &file); err != nil {
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

// docs/metrics.md has exactly the metrics that Caddy serves, and the right numbers of series.
func TestMetricsServed(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	docs, text := caddytest.ReadMetricDocs(t), caddytest.ReadDoc(t, "docs/metrics.md")
	w := caddytest.StartWatched(t)
	for from, families := range map[string]map[string]*caddytest.Family{"admin endpoint": w.Metrics(t), "site": w.MetricsOf(t, w.Site+"/metrics")} {
		for name, f := range families {
			doc, known := docs[name]
			if !known || doc.Kind != strings.ToLower(f.GetType().String()) || f.GetHelp() == "" {
				t.Errorf("%s: found %s %s, help %q, expected what docs/metrics.md says: %+v", from, f.GetType(), name, f.GetHelp(), doc)
			}
			for _, m := range f.GetMetric() {
				var labels []string
				for _, label := range m.GetLabel() {
					labels = append(labels, label.GetName())
					free := []string{"lock", "slot", "version", "caddy", "caddy_l4", "go"}
					if !slices.Contains(free, label.GetName()) && !strings.Contains(text, "`"+label.GetValue()+"`") {
						t.Errorf("%s: %s: found %s %q, expected one that docs/metrics.md explains", from, name, label.GetName(), label.GetValue())
					}
				}
				if slices.Sort(labels); !slices.Equal(labels, slices.Sorted(slices.Values(doc.Labels))) {
					t.Errorf("%s: %s: found labels %q, expected %q", from, name, labels, doc.Labels)
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
	t.Run("reload", func(t *testing.T) {
		w.Drive(t)
		for range 2 { // each worker has a holder
			holder := caddytest.Dial(t, w.Pool)
			caddytest.Send(t, holder, "hello")
			caddytest.Expect(t, holder, "hello")
		}
		before := w.Metrics(t)
		w.Reload(t)
		after := w.Metrics(t)
		for name, doc := range docs {
			if doc.Kind != "gauge" && after[name].Total() < before[name].Total() {
				t.Errorf("%s: found %v after a reload, expected at least the %v from before", name, after[name].Total(), before[name].Total())
			}
		}
		if n := len(after["caddy_tcplock_worker_up"].GetMetric()); n != 1 {
			t.Errorf("found %d workers after one was removed, expected 1", n)
		}
	})
}

// countSeries compares the number of series, before anything has happened, with what
// docs/metrics.md says, for classic and for native histograms.
func countSeries(t *testing.T, w *caddytest.Watched) {
	text := strings.ReplaceAll(caddytest.ReadDoc(t, "docs/metrics.md"), "\n", " ")
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
	classic := numbers(`A lock has (\d+) series, (\d+) more for each moment that has hooks, (\d+) for each slot with a worker or a process, and (\d+) more for each process. Where tcplock itself connects to the service, it has (\d+) more`)
	native := numbers(`With native histograms alone it is (\d+), (\d+) for each moment, and (\d+) more where tcplock itself connects`)
	series, histograms, buckets := 0, 0, 0
	for _, f := range w.Metrics(t) {
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				histograms, buckets = histograms+1, len(h.GetBucket())
			} else {
				series++
			}
		}
	}
	const locks, moments, slots, connecting = 2, 5, 2, 1 // in watched's config; each slot has a process
	const build = 1                                      // build_info
	perHistogram := buckets + 3                          // +Inf, sum and count
	if found, want := series+histograms*perHistogram, build+locks*classic[0]+moments*classic[1]+slots*(classic[2]+classic[3])+connecting*classic[4]; found != want {
		t.Errorf("found %d series, expected %d as docs/metrics.md says", found, want)
	}
	if found, want := series+histograms, build+locks*native[0]+moments*native[1]+slots*(classic[2]+classic[3])+connecting*native[2]; found != want {
		t.Errorf("found %d series with native histograms, expected %d as docs/metrics.md says", found, want)
	}
}
