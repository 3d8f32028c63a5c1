package docs_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// reference is a section of a page that must have, in its tables, the options of a block of the
// Caddyfile and the fields of its JSON.
type reference struct {
	page, section string
	block         string // how the block begins
	module        any    // has the fields, and parses the block
	onName        bool   // the parser expects that the name of the block has been read
}

// Each option that a parser knows, and each JSON field that a type has, stands in a table of the
// reference. The error of a parser for an unknown option lists those that it knows.
func TestReference(t *testing.T) {
	refs := append(steps(t),
		reference{"docs/handler.md", "options", "tcplock", new(tcplock.Handler), false},
		reference{"docs/hooks.md", "conditions", "on activate", new(hook.Hook), true},
		reference{"docs/service.md", "options", "service true", new(service.Service), true})
	for _, r := range refs {
		first, spans := tableSpans(t, r.page, r.section)
		for _, option := range optionsOf(t, r) {
			if !slices.ContainsFunc(first, func(span string) bool { return span == option || strings.HasPrefix(span, option+" ") }) {
				t.Errorf("%s, %s: found no option %s in a table, expected it", r.page, r.section, option)
			}
		}
		for _, field := range fieldsOf(reflect.TypeOf(r.module).Elem()) {
			if !slices.ContainsFunc(spans, func(span string) bool { return span == field || strings.Contains(span, `"`+field+`"`) }) {
				t.Errorf("%s, %s: found no JSON field %s in a table, expected it", r.page, r.section, field)
			}
		}
	}
}

// steps returns the references of the steps of this module.
func steps(t *testing.T) (refs []reference) {
	t.Helper()
	for _, info := range caddy.GetModules(hook.Namespace) {
		if name := info.ID.Name(); !ofTest(info) {
			refs = append(refs, reference{"docs/hooks.md", name, name + " localhost:1", info.New(), false})
		}
	}
	if len(refs) < 3 {
		t.Errorf("found %d steps, expected at least exec, wait and emit", len(refs))
	}
	return refs
}

// ofTest reports whether a module is one of the tests.
func ofTest(info caddy.ModuleInfo) bool {
	return strings.HasSuffix(reflect.TypeOf(info.New()).Elem().PkgPath(), "/caddytest")
}

// xcaddy.md shows the modules that the plugin has.
func TestModules(t *testing.T) {
	commands, err := caddytest.ReadCommands("xcaddy.md")
	if err != nil {
		t.Fatal(err)
	}
	var shown, found []string
	for _, c := range commands {
		shown = append(shown, c.Output...)
	}
	for _, id := range caddy.Modules() {
		if info, err := caddy.GetModule(id); err == nil && strings.Contains(id, "tcplock") && !ofTest(info) {
			found = append(found, id)
		}
	}
	if slices.Sort(found); !slices.Equal(shown, found) {
		t.Errorf("xcaddy.md: found modules %q, expected %q", shown, found)
	}
}

// optionsOf returns the options that a parser knows.
func optionsOf(t *testing.T, r reference) []string {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte(r.block+" {\n\tnothing_like_it\n}"), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	d := caddyfile.NewDispenser(tokens)
	if r.onName {
		d.Next()
	}
	err = r.module.(caddyfile.Unmarshaler).UnmarshalCaddyfile(d)
	if err == nil {
		t.Fatalf("%s: found an unknown option accepted, expected an error", r.block)
	}
	list := regexp.MustCompile(`(?:expected one of |condition \()(\w+(?:, \w+)*?)(?:\)|, at )`).FindStringSubmatch(err.Error())
	if list == nil {
		t.Fatalf("%s: found the error %q, expected it to list the options", r.block, err)
	}
	return strings.Split(list[1], ", ")
}

// tableSpans returns the code spans in the first column, and in the first two, of the tables of a section.
// Its anchor is the name or begins with it.
func tableSpans(t *testing.T, page, name string) (first, both []string) {
	t.Helper()
	here := false
	for line := range strings.Lines(caddytest.Prose(caddytest.ReadDoc(t, page))) {
		if strings.HasPrefix(line, "#") {
			anchor := caddytest.Anchor(line)
			here = anchor == name || strings.HasPrefix(anchor, name+"-")
		}
		if cells := strings.Split(strings.ReplaceAll(line, `\|`, "/"), "|"); here && len(cells) > 3 {
			first = append(first, caddytest.CodeSpans(cells[1])...)
			both = append(both, caddytest.CodeSpans(cells[1]+cells[2])...)
		}
	}
	return first, both
}

// fieldsOf returns the names of the JSON fields of a struct, with those of embedded structs.
func fieldsOf(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && name == "":
			names = append(names, fieldsOf(field.Type)...)
		case field.IsExported() && name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}
