package tcplock_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What docs/metrics.md and examples/monitoring say about metrics, for the tests of both.

// metricDocs are the metrics of docs/metrics.md by name.
type metricDocs map[string]metricDoc

type metricDoc struct {
	kind    string // counter, gauge or histogram
	labels  []string
	example string // a line as it is served
	query   string
}

func readMetricDocs(t *testing.T) metricDocs {
	t.Helper()
	docs := make(metricDocs)
	for _, cells := range tableRows(t, "docs/metrics.md") {
		if len(cells) != 4 || !strings.HasPrefix(cells[0], "`") {
			continue
		}
		name, last := codeSpans(cells[0])[0], codeSpans(cells[3])
		if _, twice := docs[name]; twice || len(last) != 2 {
			t.Fatalf("docs/metrics.md: found %s twice, or %q, expected it once, with an example and a query", name, last)
		}
		docs[name] = metricDoc{kind: cells[1], labels: codeSpans(cells[2]), example: last[0], query: last[1]}
	}
	return docs
}

// histogramQueries are those of docs/metrics.md that differ by the kind of histogram.
func histogramQueries(t *testing.T) (classic, native []string) {
	t.Helper()
	for _, cells := range tableRows(t, "docs/metrics.md") {
		if len(cells) == 3 && strings.HasPrefix(cells[1], "`") {
			classic, native = append(classic, codeSpans(cells[1])[0]), append(native, codeSpans(cells[2])[0])
		}
	}
	if len(native) == 0 {
		t.Fatal("docs/metrics.md: found no table of classic and native queries, expected one")
	}
	return classic, native
}

// tableRows returns the cells of all tables of a Markdown file.
func tableRows(t *testing.T, path string) (rows [][]string) {
	t.Helper()
	const pipe = "\x00" // one that does not end a cell
	for line := range strings.Lines(strings.ReplaceAll(readDoc(t, path), `\|`, pipe)) {
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

func readDoc(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// codeSpans returns what stands between backticks.
func codeSpans(markdown string) (spans []string) {
	for _, span := range codeSpan.FindAllStringSubmatch(markdown, -1) {
		spans = append(spans, span[1])
	}
	return spans
}

// labelsOf returns the labels that a series has in Prometheus.
func (docs metricDocs) labelsOf(series string) (labels []string, known bool) {
	labels = []string{"job", "instance"}
	switch series { // which Prometheus makes itself
	case "up":
		return labels, true
	case "ALERTS":
		return append(labels, "alertname", "alertstate"), true
	}
	doc, known := docs[series]
	if known {
		return append(labels, doc.labels...), true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if name, ok := strings.CutSuffix(series, suffix); ok && docs[name].kind == "histogram" {
			if suffix == "_bucket" {
				labels = append(labels, "le")
			}
			return append(labels, docs[name].labels...), true
		}
	}
	return nil, false
}

var (
	promqlString   = regexp.MustCompile(`"[^"]*"`)
	promqlSelector = regexp.MustCompile(`(\w+)\s*\{([^}]*)\}`)
	promqlMatcher  = regexp.MustCompile(`(\w+)\s*[=!]`)
	promqlWindow   = regexp.MustCompile(`\[[^]]*\]`)
	promqlGrouping = regexp.MustCompile(`\b(?:by|on|group_left)\s*\(([^)]*)\)`)
	promqlWord     = regexp.MustCompile(`\b[a-zA-Z_]\w*`)
)

// promqlWords are those that the queries need, besides names of series and labels.
var promqlWords = strings.Fields(`and or unless sum min max count by on group_left rate increase delta
	avg_over_time max_over_time histogram_quantile histogram_fraction histogram_sum histogram_count`)

// check says what a query asks for that is not documented. That it is PromQL at all is
// for promtool to check.
func (docs metricDocs) check(query string) error {
	query = promqlString.ReplaceAllString(query, "")
	for _, found := range promqlSelector.FindAllStringSubmatch(query, -1) {
		labels, _ := docs.labelsOf(found[1])
		for _, label := range promqlMatcher.FindAllStringSubmatch(found[2], -1) {
			if !slices.Contains(labels, label[1]) {
				return fmt.Errorf("found label %s of %s, expected one of %q", label[1], found[1], labels)
			}
		}
	}
	query = promqlWindow.ReplaceAllString(promqlSelector.ReplaceAllString(query, "$1"), "")
	var all []string // labels
	for _, name := range promqlWord.FindAllString(promqlGrouping.ReplaceAllString(query, ""), -1) {
		labels, known := docs.labelsOf(name)
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

// alertRule is a rule of examples/monitoring.
type alertRule struct{ Alert, Expr string }

func alertRules(t *testing.T) (rules []alertRule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alertRule }
	}
	if err := yaml.Unmarshal(readExample(t, "monitoring", "tcplock.rules.yml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// dashboardQueries are all that the dashboard asks Prometheus, with its variables filled
// in, and without its "> 0", which only hides what has not happened.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	var dashboard any
	if err := json.Unmarshal(readExample(t, "monitoring", "dashboard.json"), &dashboard); err != nil {
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
