package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Each promise in docs/reliability.md names tests that exist, and the commands that run exactly
// these.
func TestReliabilityDoc(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`(Test\\w+)`")
	command := regexp.MustCompile("`(?:cd (\\w+) && )?go test (?:-tags \\w+ )?-run '\\^(Test\\w+)\\$(?:/\\S+)?' ([^\\s`]+)[^`]*`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise |") {
			continue
		}
		rows++
		names, commands := name.FindAllStringSubmatch(line, -1), command.FindAllStringSubmatch(line, -1)
		if len(names) == 0 || len(names) != len(commands) {
			t.Errorf("found %d tests and %d commands, expected a command for each: %s", len(names), len(commands), line)
			continue
		}
		for i, c := range commands {
			if dir := filepath.Join(caddytest.Root, c[1], c[3]); c[2] != names[i][1] || !hasTest(t, dir, c[2]) {
				t.Errorf("found no test %s that is run by %q", names[i][1], c[0])
			}
		}
	}
	if rows == 0 {
		t.Error("found no promises")
	}
}

// hasTest reports whether a test is in the files of a directory.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(code), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
