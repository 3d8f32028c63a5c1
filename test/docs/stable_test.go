package docs_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

const ours = "github.com/seed-4dbef00f/caddy-tcplock"

const stableFile = "testdata/stable.txt"

// The names that docs/deploy.md calls stable are those in testdata/stable.txt. A name that goes, or changes,
// breaks what users have built on it.
func TestStableNames(t *testing.T) {
	text, err := os.ReadFile(stableFile)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	got := stableNames(t)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("found no %q, expected it: docs/deploy.md says that it is stable", name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("found %q, expected it in %s too. From then on it is stable", name, stableFile)
		}
	}
}

// A Caddyfile with all options goes on to be valid, and sets all fields.
func TestStableCaddyfile(t *testing.T) {
	text, err := os.ReadFile("testdata/stable.caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	config := caddytest.Adapt(t, string(text))
	validExample(t, config)
	for _, name := range stableNames(t) {
		field, ok := strings.CutPrefix(name, "config ")
		if !ok {
			continue
		}
		field = field[strings.LastIndexAny(field, " .")+1:]
		if !strings.Contains(string(config), fmt.Sprintf("%q:", field)) {
			t.Errorf("found no %q in the JSON of testdata/stable.caddyfile, expected it, for %q", field, name)
		}
	}
}

// stableNames returns a line for each name: what it is, and the name.
func stableNames(t *testing.T) (names []string) {
	add := func(kind string, name ...string) { names = append(names, kind+" "+strings.Join(name, " ")) }
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		of := reflect.TypeOf(info.New())
		if of.Kind() != reflect.Pointer || !strings.HasPrefix(of.Elem().PkgPath(), ours) || strings.HasPrefix(of.Elem().PkgPath(), ours+"/internal/caddytest") {
			continue
		}
		add("module", id)
		for _, field := range fields(of, "") {
			add("config", id, field)
		}
	}
	for _, field := range fields(reflect.TypeFor[status.Lock](), "") {
		add("admin", field)
	}
	for _, word := range words(t, "status") {
		add("word", word)
	}
	for _, moment := range words(t, "hook") {
		add("moment", moment)
	}
	for _, page := range []string{"handler", "admin", "commands", "events"} {
		for _, cells := range caddytest.TableRows(t, "docs/"+page+".md") {
			for _, found := range regexp.MustCompile("^`(\\{l4\\.[a-z_.]+\\}|(?:GET|POST) /\\S+)`").FindAllStringSubmatch(cells[0], -1) {
				add("placeholder or path", found[1])
			}
			if code, err := strconv.Atoi(cells[0]); err == nil {
				add(map[bool]string{true: "exit code", false: "status"}[code < 100], fmt.Sprint(code))
			}
		}
	}
	for _, cells := range caddytest.TableRows(t, "docs/events.md") {
		for _, name := range caddytest.CodeSpans(cells[0]) {
			if strings.HasPrefix(name, "tcplock_") {
				add("event", name)
			} else {
				add("in log or event", name)
			}
		}
	}
	for _, name := range regexp.MustCompile("`(TCPLOCK_\\w+)`").FindAllStringSubmatch(caddytest.ReadDoc(t, "docs/hooks.md"), -1) {
		add("variable", name[1])
	}
	for name, doc := range caddytest.ReadMetricDocs(t) {
		add("metric", append([]string{name}, doc.Labels...)...)
	}
	command := &cobra.Command{Use: "tcplock"}
	caddycmd.Commands()["tcplock"].CobraFunc(command)
	for _, c := range append(command.Commands(), command) {
		name := c.Name()
		add("command", name)
		c.Flags().VisitAll(func(f *pflag.Flag) { add("option", name, "--"+f.Name) })
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// fields returns the JSON names of a type's fields, and of those below them.
func fields(of reflect.Type, below string) (names []string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of.Implements(reflect.TypeFor[json.Marshaler]()) {
		return nil
	}
	for i := range of.NumField() {
		field := of.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && name == "":
			names = append(names, fields(field.Type, below)...)
		case field.IsExported() && name != "" && name != "-":
			names = append(names, below+name)
			names = append(names, fields(field.Type, below+name+".")...)
		}
	}
	return names
}

// words returns the texts of all constants that a package exports.
func words(t *testing.T, folder string) (words []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(caddytest.Root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			group, ok := d.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				for i, value := range spec.(*ast.ValueSpec).Values {
					literal, ok := value.(*ast.BasicLit)
					if ok && literal.Kind == token.STRING && spec.(*ast.ValueSpec).Names[i].IsExported() {
						words = append(words, strings.Trim(literal.Value, `"`))
					}
				}
			}
		}
	}
	return words
}
