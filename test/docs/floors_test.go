package docs_test

import (
	"errors"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

const module = "github.com/seed-4dbef00f/caddy-tcplock"

// room is a package: its floor and its imports of this module.
type room struct {
	floor, job string
	imports    []string
}

// ARCHITECTURE.md lists the packages. The list is true on all systems, and no package imports one of
// its own floor or above.
func TestFloors(t *testing.T) {
	listed := listedRooms(t)
	found := make(map[string]*room)
	for _, system := range []string{"linux", "darwin", "freebsd", "windows"} {
		findRooms(t, system, found)
	}
	for name, r := range found {
		slices.Sort(r.imports)
		want, ok := listed[name]
		if !ok {
			t.Errorf("found package %s, expected a row for it in ARCHITECTURE.md", name)
			continue
		}
		if !strings.Contains(r.job, want.job) {
			t.Errorf("package %s: found the doc comment %q, expected it to say the job that ARCHITECTURE.md says: %q", name, r.job, want.job)
		}
		if !slices.Equal(r.imports, want.imports) {
			t.Errorf("package %s: found imports of %v, expected those in ARCHITECTURE.md: %v", name, r.imports, want.imports)
		}
		for _, imported := range r.imports {
			if listed[imported].floor >= want.floor {
				t.Errorf("package %s on floor %s imports %s on floor %s, expected a lower one", name, want.floor, imported, listed[imported].floor)
			}
		}
	}
	for name := range listed {
		if found[name] == nil {
			t.Errorf("found a row for package %s in ARCHITECTURE.md, expected such a package", name)
		}
	}
}

// listedRooms reads the table of ARCHITECTURE.md: floor, package, job, imports.
func listedRooms(t *testing.T) map[string]room {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(caddytest.Root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	rooms := make(map[string]room)
	for _, row := range regexp.MustCompile("(?m)^\\| ([0-9]) \\| `(\\S+)` \\| (.+) \\| (.*) \\|$").FindAllStringSubmatch(string(page), -1) {
		rooms[row[2]] = room{row[1], row[3], strings.Fields(row[4])}
	}
	return rooms
}

// findRooms adds the packages of one system, but those that have nothing but tests.
func findRooms(t *testing.T, system string, rooms map[string]*room) {
	t.Helper()
	in := build.Default
	in.GOOS, in.CgoEnabled = system, false
	err := filepath.WalkDir(caddytest.Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		inside, err := filepath.Rel(caddytest.Root, path)
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && inside != "." || strings.HasPrefix(entry.Name(), ".git") || entry.Name() == "testdata" {
			return filepath.SkipDir
		}
		p, err := in.ImportDir(path, 0)
		if none := new(build.NoGoError); errors.As(err, &none) || err == nil && len(p.GoFiles) == 0 {
			return nil
		} else if err != nil {
			return err
		}
		name := roomName(module + strings.TrimPrefix("/"+filepath.ToSlash(inside), "/."))
		if rooms[name] == nil {
			rooms[name] = &room{job: p.Doc}
		}
		for _, imported := range p.Imports {
			if below := roomName(imported); below != "" && !slices.Contains(rooms[name].imports, below) {
				rooms[name].imports = append(rooms[name].imports, below)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// roomName is the path of a package inside the module, "root" for the module's own package, "" for
// one of another module.
func roomName(path string) string {
	if path == module {
		return "root"
	}
	name, ours := strings.CutPrefix(path, module+"/")
	if !ours {
		return ""
	}
	return name
}
