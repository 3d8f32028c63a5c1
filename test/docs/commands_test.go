package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// elsewhere has the commands of pages that no script in e2e/commands runs: the file that runs them, with
// a text that it must have, or why none can. A page may be followed by # and the anchor of a section. The
// first row that fits a command counts.
var elsewhere = []struct{ page, command, by, has, why string }{
	{`^docs/deploy\.md#(install|limits|a-socket-that-outlives-caddy|with-polkit|with-sudo|back-to-the-package|with-a-restart|without-losing-the-line)$`, ``,
		"e2e/deploy/machine_linux_test.go", `"../../docs/deploy.md"`, "follows these sections on a machine of its own"},
	{`^docs/deploy\.md#docker$|^examples/docker/`, `docker compose |POSTGRES_PASSWORD|^psql `, "e2e/deploy/docker_test.go", "func TestComposeCommands", "without an engine: docker-compose only reads compose.yaml"},
	{`^docs/admin`, `^curl `, "e2e/operators/curl_test.go", `"../../docs/admin.md"`, "takes them from the page"},
	{`^docs/(capacity|commands)`, `^caddy tcplock plan --`, "internal/cli/plan_test.go", `"../../docs/capacity.md", "../../docs/commands.md"`, "takes them from the pages"},
	{`^examples/monitoring`, `^promtool query`, "e2e/monitoring/prometheus_test.go", `"examples/monitoring/README.md"`, "takes them from the page"},
	{`^examples/monitoring`, `^prometheus |sleep 900`, "e2e/monitoring/prometheus_test.go", `"--storage.tsdb.path="`, "starts it so, with clients that stay until the alerts fire"},
	{`^examples/libreoffice/`, `^printf|convert\.py|soffice\.sh stop|caddy run$`, "e2e/services/libreoffice_test.go", `./soffice.sh stop`, "on other ports, with documents of all kinds"},
	{`^examples/libreoffice-pool`, `^printf|convert\.py|caddy |kill`, "e2e/services/libreoffice_pool_test.go", `examples/libreoffice/convert.py`, "on other ports"},
	{`^examples/postgres`, `^pgbench `, "e2e/services/postgres_test.go", `"pgbench"`, "needs a database of its own"},
	{`^examples/systemd`, `^systemd-socket-activate `, "e2e/services/systemd_test.go", `"-E", "SERVICE="`, "on another port"},
	{`^xcaddy`, `^xcaddy build .*=\.$|^go (mod init|get -tool|build github)`, ".ci/run", "go get -tool ", "as a step of its own"},
	{`^e2e/chaos`, `go test .*TestChaos`, ".ci/run", "-run TestChaos", "as a step of its own"},
	{``, `^(cd \w+ && )?go (build|test) `, ".ci/run", "go test ", "on all packages; goExists checks the names"},
	{`^(bench|e2e/chaos)/`, `^cd [\w.]+$`, ".ci/run", "cd e2e", "for the command below it"},
	{`^docs/performance|^bench`, `^(cd bench && )?go run \.`, "bench/bench_test.go", "func Test", "runs each measurement, but briefly: this takes half an hour"},

	{`^xcaddy|^CONTRIBUTING`, `^\s*(xcaddy build |git (tag|push) |\./caddy tcplock version)`, "", "", "no version is released yet"},
	{`^bench`, `^benchstat `, "", "", "only prints what go test has measured"},
	{``, `\bsystemctl |/etc/| /usr/local/`, "", "", "changes the machine, and needs one that systemd has started"},
	{``, `\bapt(-get)? install`, "", "", "changes the machine; .ci/run installs the packages"},
}

// A script or a test runs each command that a page shows.
func TestCommandsAreRun(t *testing.T) {
	ran, used := scripted(t), make([]bool, len(elsewhere))
	indented := regexp.MustCompile(`\n\n(?:    |\t)\S.*`)
	for _, page := range caddytest.Pages(t) {
		if code := indented.FindString(caddytest.Prose(caddytest.ReadDoc(t, page))); code != "" {
			t.Errorf("%s: found %q, expected code in a fenced block", page, code)
		}
		commands, err := caddytest.ReadCommands(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if !runByScript(ran, c) && !runElsewhere(t, c, used) {
				t.Errorf("%s#%s: found no test that runs %q, expected a script in e2e/commands or a row above", page, c.Section, c.Text)
			}
			goExists(t, c)
		}
	}
	for i, row := range elsewhere {
		if !used[i] {
			t.Errorf("found no command that needs %+v", row)
		}
	}
}

// scripted returns the commands in the scripts: page, section and text.
func scripted(t *testing.T) (ran [][]string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(caddytest.Root, "e2e/commands/testdata/script/*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found no scripts, error %v", err)
	}
	line := regexp.MustCompile(`(?m)^(?:! )?(?:shows|prints|runs|begins \w+) ([\w./-]+\.md):(\S+) (.+)$`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range line.FindAllStringSubmatch(string(text), -1) {
			quoted, isQuoted := strings.CutPrefix(strings.TrimSpace(found[3]), "'")
			if isQuoted {
				quoted = strings.ReplaceAll(strings.TrimSuffix(quoted, "'"), "''", "'")
			}
			ran = append(ran, []string{found[1], found[2], quoted})
		}
	}
	return ran
}

func runByScript(ran [][]string, c caddytest.Command) bool {
	for _, r := range ran {
		if r[0] == c.Page && r[1] == c.Section && c.Is(r[2]) {
			return true
		}
	}
	return false
}

func runElsewhere(t *testing.T, c caddytest.Command, used []bool) bool {
	t.Helper()
	for i, row := range elsewhere {
		if !regexp.MustCompile(row.page).MatchString(c.Page+"#"+c.Section) || !regexp.MustCompile(row.command).MatchString(c.Text) {
			continue
		}
		if !used[i] && row.by != "" && !strings.Contains(caddytest.ReadDoc(t, row.by), row.has) {
			t.Errorf("%s: found no %s, expected it to run %q", row.by, row.has, c.Text)
		}
		used[i] = true
		return true
	}
	return false
}

// goExists checks that the packages, files and tests exist that a go command names. CI runs the tests of
// all packages.
func goExists(t *testing.T, c caddytest.Command) {
	t.Helper()
	command := regexp.MustCompile(`\bgo (build|test|run) .*`).FindString(c.Text)
	dir := filepath.Join(caddytest.Root, filepath.Dir(c.Page))
	if !strings.HasPrefix(c.Page, "examples/libreoffice") {
		dir = caddytest.Root
	}
	if in := regexp.MustCompile(`^cd (\w+) &&`).FindStringSubmatch(c.Text); in != nil {
		dir = filepath.Join(dir, in[1])
	} else if strings.HasPrefix(c.Page, "e2e/") {
		dir = filepath.Join(dir, "e2e")
	}
	for _, name := range regexp.MustCompile(`(?:^|[ =])((?:\.\.?|examples)/[\w./-]*\w)`).FindAllStringSubmatch(command, -1) {
		if _, err := os.Stat(filepath.Join(dir, strings.TrimSuffix(name[1], "/..."))); err != nil {
			t.Errorf("%s: %q: %v", c.Page, c.Text, err)
		}
	}
	if run := regexp.MustCompile(`-run '\^(Test\w+)\$'.* (\S+)$`).FindStringSubmatch(command); run != nil && !hasTest(t, filepath.Join(dir, run[2]), run[1]) {
		t.Errorf("%s: %q: found no test %s in %s", c.Page, c.Text, run[1], run[2])
	}
}
