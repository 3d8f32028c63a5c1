package caddytest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Pages returns the paths of all markdown pages of the tree, relative to its root.
func Pages(t *testing.T) (pages []string) {
	t.Helper()
	err := filepath.WalkDir(Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			inside, err := filepath.Rel(Root, path)
			pages = append(pages, filepath.ToSlash(inside))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// Anchor returns the anchor of a heading of a markdown page, as GitHub makes it. (It does not number
// headings of one name.)
func Anchor(heading string) string {
	text := strings.ToLower(strings.TrimSpace(strings.TrimLeft(heading, "#")))
	text = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")
	text = regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`).ReplaceAllString(text, "")
	return strings.ReplaceAll(text, " ", "-")
}

// block is a fenced block of a page, or what stands between two of them (then it has no kind).
type block struct {
	section, kind string
	fenced        bool
	lines         []string
}

// blocksOf cuts a page at its fences and headings.
func blocksOf(text string) (blocks []block) {
	now := block{}
	next := func(b block) {
		blocks = append(blocks, now)
		now = b
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence:
			next(block{section: now.section, kind: fence, fenced: !now.fenced})
		case !now.fenced && strings.HasPrefix(line, "#"):
			next(block{section: Anchor(line), lines: []string{line}})
		default:
			now.lines = append(now.lines, line)
		}
	}
	next(block{})
	return blocks
}

// Prose returns a page without its fenced blocks.
func Prose(text string) string {
	var prose []string
	for _, b := range blocksOf(text) {
		if !b.fenced {
			prose = append(prose, b.lines...)
		}
	}
	return strings.Join(prose, "\n")
}

// Command is a command of a page.
type Command struct {
	Page, Section string // the path of the page, the anchor of the heading above
	Text          string
	Shows         bool     // the page shows what the command prints (console)
	Output        []string // what it prints then, by line
}

// Is reports whether a text names the command. The text has all of it, or its beginning and "...".
func (c Command) Is(text string) bool {
	if start, ok := strings.CutSuffix(text, "..."); ok {
		return strings.HasPrefix(c.Text, start)
	}
	return c.Text == text
}

// ReadCommands returns the commands in the blocks sh and console of a page.
func ReadCommands(page string) (commands []Command, err error) {
	text, err := os.ReadFile(filepath.Join(Root, page))
	if err != nil {
		return nil, err
	}
	for _, b := range blocksOf(string(text)) {
		switch b.kind {
		case "sh", "bash", "shell":
			for _, text := range scriptOf(b.lines) {
				commands = append(commands, Command{Page: page, Section: b.section, Text: text})
			}
		case "console":
			first := len(commands)
			for _, line := range b.lines {
				if text, ok := strings.CutPrefix(line, "$ "); ok {
					commands = append(commands, Command{Page: page, Section: b.section, Text: text, Shows: true})
				} else if last := len(commands) - 1; last >= first {
					commands[last].Output = append(commands[last].Output, line)
				}
			}
		}
	}
	return commands, nil
}

var (
	comment = regexp.MustCompile(`(^|\s{2,})#\s.*$`)
	here    = regexp.MustCompile(`<<-?['"]?(\w+)`)
)

// scriptOf returns the commands of a block sh, without comments: one a line, unless a quote, an "if", a
// here document or a backslash goes on in the next line.
func scriptOf(lines []string) (commands []string) {
	var open []string
	for _, line := range lines {
		open = append(open, comment.ReplaceAllString(line, ""))
		text := strings.Join(open, "\n")
		starts, ends := 0, 0
		for _, l := range open {
			if strings.HasPrefix(l, "if ") {
				starts++
			}
			if l == "fi" {
				ends++
			}
		}
		doc := here.FindStringSubmatch(text)
		if strings.Count(text, "'")%2 == 1 || strings.HasSuffix(text, `\`) || starts != ends || doc != nil && line != doc[1] {
			continue
		}
		if open = nil; strings.TrimSpace(text) != "" {
			commands = append(commands, text)
		}
	}
	return commands
}
