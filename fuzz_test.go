package tcplock

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Whatever stands on a tcplock's line and in its block, unbalanced braces included,
// reading it does not panic; a refusal names a line; and what is read is a config that
// passes the checks of JSON and stays the same when it is read and written again.
func FuzzCaddyfile(f *testing.F) {
	for _, file := range goldens(f) {
		input, _ := readGolden(f, file)
		for _, segment := range tcplockSegments(input) {
			f.Add(segment)
		}
	}
	f.Fuzz(func(t *testing.T, segment string) {
		tokens, err := caddyfile.Tokenize([]byte(segment), "Caddyfile")
		if err != nil || len(tokens) == 0 { // a segment begins with its name
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			if !strings.Contains(err.Error(), "at Caddyfile:") {
				t.Errorf("found no line in: %v", err)
			}
			return
		}
		raw, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, raw)
	})
}

// Whatever is given as a handler's JSON, checking it does not panic, and what passes
// stays the same when it is written and read again.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"slots": 0, "max_waiting": null, "wait_timeout": "0", "linger": null, "refuse": []}`,
		`{"hooks": [{"on": "activate", "steps": []}]}`,
		`{"hooks": [{"on": "activate", "steps": [null, {"hook": "<"}], "every": "5"}]}`,
		`{"hold_timeout": 9223372036854775807, "hooks": [null]}`,
		`{"workers": [], "worker_check": "1s"}`,
		`{"workers": ["", "a:1-65535", "a:2"], "slots": 1, "max_per_client": -1}`,
		`{"workers": ["unix/", "udp/a:1", "{env.A}:1", "[::1]:1-0"], "priority": 1001, "priority_age": "25h"}`,
	} {
		f.Add([]byte(seed))
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	for _, file := range goldens(f) {
		input, _ := readGolden(f, file)
		raw, _, err := adapter.Adapt([]byte(input), nil)
		if err != nil {
			continue // one of those that are refused
		}
		for _, handler := range tcplockObjects(f, raw) {
			f.Add(handler)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := new(Handler)
		if caddy.StrictUnmarshalJSON(raw, h) != nil || h.check() != nil || h.CheckMoments() != nil {
			return
		}
		raw, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, raw)
	})
}

func roundTrip(t *testing.T, raw []byte) {
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON(raw, h); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	if err := h.check(); err != nil {
		t.Errorf("%s: %v", raw, err)
	}
	if err := h.CheckMoments(); err != nil {
		t.Errorf("%s: %v", raw, err)
	}
	again, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, again) {
		t.Errorf("got  %s\nfrom %s", again, raw)
	}
}

// tcplockSegments returns the tcplock lines of a formatted Caddyfile, with their blocks.
func tcplockSegments(input string) []string {
	var segments []string
	lines := strings.Split(input, "\n")
	for i, line := range lines {
		bare := strings.TrimLeft(line, "\t")
		if !strings.HasPrefix(bare, "tcplock") {
			continue
		}
		indent := strings.TrimSuffix(line, bare)
		end := i
		if strings.HasSuffix(line, "{") {
			end += slices.Index(lines[i:], indent+"}")
		}
		segments = append(segments, strings.ReplaceAll(strings.Join(lines[i:end+1], "\n"), "\n"+indent, "\n"))
	}
	return segments
}

// tcplockObjects returns the tcplock handlers of a config, without their module name.
func tcplockObjects(f *testing.F, raw []byte) [][]byte {
	var found [][]byte
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case []any:
			for _, v := range value {
				walk(v)
			}
		case map[string]any:
			for _, v := range value {
				walk(v)
			}
			if value["handler"] == "tcplock" {
				delete(value, "handler")
				handler, err := json.Marshal(value)
				if err != nil {
					f.Fatal(err)
				}
				found = append(found, handler)
			}
		}
	}
	var config any
	if err := json.Unmarshal(raw, &config); err != nil {
		f.Fatal(err)
	}
	walk(config)
	return found
}
