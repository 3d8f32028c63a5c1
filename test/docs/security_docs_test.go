package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Each sentence of docs/security.md has tests beside it, and these tests exist.
func TestSecurityDoc(t *testing.T) {
	tests := make(map[string]bool)
	err := filepath.WalkDir(caddytest.Root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, found := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(source, -1) {
			tests[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(manual)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| It can") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSpace(line), " | ")
		names := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 2 || len(names) == 0 || !strings.HasSuffix(cells[0], ".") {
			t.Errorf("found %q, expected a sentence and the names of its tests", line)
		}
		for _, name := range names {
			if !tests[name[1]] {
				t.Errorf("found no test %s", name[1])
			}
		}
	}
	if rows < 50 {
		t.Errorf("found %d sentences, expected at least 50", rows)
	}
}
