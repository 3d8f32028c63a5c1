package docs_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

var (
	link      = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ .*$`)
	namedHere = regexp.MustCompile(`<a id="([^"]+)"></a>`)
)

// Each link to a file of the tree leads to a file, and each anchor to a heading of its page.
func TestLinks(t *testing.T) {
	for _, page := range caddytest.Pages(t) {
		for _, found := range link.FindAllStringSubmatch(withoutCode(t, page), -1) {
			if strings.Contains(found[1], "://") || strings.HasPrefix(found[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(found[1], "#")
			target := path.Join(path.Dir(page), file)
			if file == "" {
				target = page
			}
			info, err := os.Stat(filepath.Join(caddytest.Root, target))
			switch {
			case err != nil:
				t.Errorf("%s: found a link to %s, expected one to a file: %v", page, found[1], err)
			case anchor == "":
			case info.IsDir() || !strings.HasSuffix(target, ".md"):
				t.Errorf("%s: found a link to %s, expected an anchor in a page", page, found[1])
			case !anchorsOf(t, target)[anchor]:
				t.Errorf("%s: found a link to %s, expected a heading of %s", page, found[1], target)
			}
		}
	}
}

// withoutCode returns a page without its blocks and code spans, and with each link on one line.
func withoutCode(t *testing.T, page string) string {
	t.Helper()
	prose := caddytest.Prose(caddytest.ReadDoc(t, page))
	return regexp.MustCompile("`[^`\n]*`").ReplaceAllString(prose, "")
}

// anchorsOf returns the anchors of a page: those of its headings, and those that stand there by name.
func anchorsOf(t *testing.T, page string) map[string]bool {
	t.Helper()
	prose := caddytest.Prose(caddytest.ReadDoc(t, page))
	anchors := make(map[string]bool)
	for _, line := range heading.FindAllString(prose, -1) {
		anchors[caddytest.Anchor(line)] = true
	}
	for _, named := range namedHere.FindAllStringSubmatch(prose, -1) {
		anchors[named[1]] = true
	}
	return anchors
}

// Each page, but the README and those of programs and examples, says in its first sentence what it answers. The
// index lists each page.
func TestIndex(t *testing.T) {
	const index = "docs/README.md"
	listed := make(map[string]bool)
	for _, found := range link.FindAllStringSubmatch(caddytest.Prose(caddytest.ReadDoc(t, index)), -1) {
		file, _, _ := strings.Cut(found[1], "#")
		listed[path.Join("docs", file)] = true
	}
	sentence := regexp.MustCompile(`^(?:---\n(?:.*\n)*?---\n\n)?# .+\n\nThis page (?:says|answers|lists|leads)\s[^:]{20,}?[.:]`)
	for _, page := range caddytest.Pages(t) {
		if path.Base(page) != "README.md" && !sentence.MatchString(caddytest.ReadDoc(t, page)) {
			t.Errorf("%s: found no sentence below the title, expected one that begins with %q and what it answers", page, "This page says")
		}
		if page != index && !listed[page] {
			t.Errorf("%s: found no link to %s, expected one", index, page)
		}
	}
}

// The index explains the words of a lock as the handler's page does.
func TestWords(t *testing.T) {
	page, index := caddytest.ReadDoc(t, "docs/handler.md"), caddytest.ReadDoc(t, "docs/README.md")
	_, words, _ := strings.Cut(page, "\n### Words\n")
	words, _, _ = strings.Cut(words, "\n#")
	rows := regexp.MustCompile(`(?m)^\| \w.*\|$`).FindAllString(words, -1)
	for _, row := range rows {
		if !strings.Contains(index, row+"\n") {
			t.Errorf("docs/README.md: found no row %q, expected it as in docs/handler.md", row)
		}
	}
	if len(rows) < 9 {
		t.Errorf("docs/handler.md: found %d words, expected those of a lock", len(rows))
	}
}
