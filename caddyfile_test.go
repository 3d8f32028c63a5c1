package tcplock

import (
	"bytes"
	"encoding/json"
	stdflag "flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/caddyserver/certmagic"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
)

var update = stdflag.Bool("update", false, "rewrite the expected parts of testdata/adapt")

const (
	goldenPattern   = "testdata/adapt/*.caddytest"
	goldenSeparator = "----------\n"
)

// Each file in testdata/adapt is a Caddyfile, a separator, and what comes of it: the
// JSON it is adapted to, which must also load, or, in the files named bad_*, the whole
// message it is refused with. Files named bad_load_* are refused only when their JSON
// is loaded, because no single handler can see what is wrong with them.
func TestCaddyfile(t *testing.T) {
	storage := caddy.DefaultStorage
	caddy.DefaultStorage = &certmagic.FileStorage{Path: t.TempDir()} // tls makes certificates
	t.Cleanup(func() { caddy.DefaultStorage = storage })

	for _, file := range goldens(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".caddytest")
		t.Run(name, func(t *testing.T) {
			input, want := readGolden(t, file)
			got, adaptErr := adapt(t, input)
			var loadErr error
			if adaptErr == nil {
				loadErr = load(t, got)
			}
			switch {
			case strings.HasPrefix(name, "bad_load_"):
				got = message(t, loadErr, adaptErr)
			case strings.HasPrefix(name, "bad_"):
				got = strings.ReplaceAll(message(t, adaptErr, nil), "test_call, ", "") // a step of another test
			case adaptErr != nil || loadErr != nil:
				t.Fatalf("refused: %v %v", adaptErr, loadErr)
			}
			if *update && got != want {
				writeGolden(t, file, input, got)
			} else if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func init() { caddy.RegisterModule(notAStep{}) }

// notAStep is a module that has got into the steps' namespace by mistake. The dot keeps
// it out of the lists of steps in error messages.
type notAStep struct{}

func (notAStep) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: hook.Namespace + ".test.not_a_step", New: func() caddy.Module { return notAStep{} }}
}

func (notAStep) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// adapt returns the Caddyfile as indented JSON. An example that caddy fmt would change
// is no example.
func adapt(t *testing.T, input string) (string, error) {
	raw, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	for _, w := range warnings {
		t.Error(w)
	}
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return out.String() + "\n", nil
}

// load does what Caddy does with a config, short of starting its apps.
func load(t *testing.T, raw string) error {
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON([]byte(raw), &cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&cfg)
}

func message(t *testing.T, want, other error) string {
	t.Helper()
	if want == nil {
		t.Fatalf("found no error (at the other stage: %v), expected one", other)
	}
	return want.Error() + "\n"
}

func goldens(t testing.TB) []string {
	files, err := filepath.Glob(goldenPattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("found no %s: %v", goldenPattern, err)
	}
	return files
}

func readGolden(t testing.TB, file string) (input, want string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(raw), "\r\n", "\n")
	input, want, ok := strings.Cut(text, goldenSeparator)
	if !ok {
		t.Fatalf("%s: found no line %s", file, strings.TrimSpace(goldenSeparator))
	}
	return input, want
}

func writeGolden(t testing.TB, file, input, want string) {
	if err := os.WriteFile(file, []byte(input+goldenSeparator+want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// JSON goes past the Caddyfile's table: the handler's own checks refuse what is out of
// range or contradicts itself there, when the config is loaded.
func TestJSONRefused(t *testing.T) {
	for handler, want := range map[string]string{
		`"slot": 1`:       `unknown field "slot"`,
		`"slots": -1`:     "slots: found -1, expected a number from 1 to 1000000",
		`"slots": 0`:      "slots: found 0, expected a number from 1 to 1000000",
		`"slots": null`:   "slots: found null, expected a value, or nothing for the default",
		`"linger": null`:  "linger: found null, expected a value",
		`"service": null`: "service: found null, expected a value",
		`"service": {"command": "true", "ready": null}`: "service: ready: found null, expected a value",
		`"service": {"command": "true", "redy": "x"}`:   `json: unknown field "redy"`,
		`"slots": 1000001`:    "slots: found 1000001, expected a number from 1 to 1000000",
		`"name": "a b"`:       `name: found "a b", expected 1 to 64 letters, digits or any of . _ -, and not just dots`,
		`"name": "a\n"`:       `name: found "a\n", expected`,
		`"max_waiting": -1`:   "max_waiting: found -1, expected 0 or more",
		`"wait_timeout": -1`:  "wait_timeout: found -1ns, expected a duration of 0 or more",
		`"hold_timeout": -1`:  "hold_timeout: found -1ns, expected a duration of 0 or more",
		`"linger": "-1s"`:     "linger: found -1s, expected a duration of 0 or more",
		`"settle": "-1s"`:     "settle: found -1s, expected a duration of 0 or more",
		`"drain": "-1s"`:      "drain: found -1s, expected a duration of 0 or more",
		`"half_closed": "no"`: `half_closed: found "no", expected keep or drop`,

		`"max_waiting": 0, "wait_timeout": "5s"`: "wait_timeout: found 5s with max_waiting 0, expected only one of them",

		`"refuse": [{"handler": "none"}]`: "unknown module: layer4.handlers.none",

		`"hooks": [null]`: "hook 1: found null, expected a hook",
		`"hooks": [{}]`:   `hook 1: on: found "", expected one of activate, release, timeout, refuse, idle`,
		`"hooks": [{"on": "activate", "steps": []}]`:                 "hook 1: on activate: found no step, expected at least one",
		`"hooks": [{"on": "activate", "steps": [{"hook": "none"}]}]`: "unknown module: layer4.tcplock.hooks.none",
		`"hooks": [{"on": "activate", "steps": [{"hook": "emit"}]}]`: `event: found "", expected a name`,
	} {
		t.Run(handler, func(t *testing.T) { wantRefused(t, handler, want) })
	}
	for hook, want := range map[string]string{
		`"on": "timeout"`:                          "on timeout: found no hold_timeout, expected one",
		`"on": "idle"`:                             "on idle: found idle time 0s, expected a duration of more than 0",
		`"on": "idle", "idle_for": "-5s"`:          "on idle: found idle time -5s, expected a duration of more than 0",
		`"on": "release", "idle_for": "5s"`:        "on release: found idle time 5s, expected",
		`"on": "release", "idle_for": "-5s"`:       "on release: found idle time -5s, expected",
		`"on": "release", "every": 0`:              "every: found 0, expected a number or a duration, more than 0",
		`"on": "release", "every": 1.5`:            "every: found 1.5, expected",
		`"on": "release", "every": "-5s"`:          "every: found -5s, expected",
		`"on": "refuse", "exclusive": true`:        "on refuse: found exclusive, expected it with",
		`"on": "activate", "exclusive_wait": "5s"`: "found exclusive_wait 5s, expected 0 or more, and exclusive with it",
		`"on": "activate", "retry": -1`:            "found retry -1, expected 0 or more",
		`"on": "activate", "retry_interval": "5s"`: "found retry_interval 5s, expected 0 or more, and retry with it",
	} {
		t.Run(hook, func(t *testing.T) {
			wantRefused(t, `"hooks": [{`+hook+`, "steps": [{"hook": "emit", "event": "x"}]}]`, want)
		})
	}
}

func wantRefused(t *testing.T, handler, want string) {
	t.Helper()
	err := load(t, `{"apps": {"layer4": {"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [
		{"handler": "tcplock", `+handler+`}, {"handler": "echo"}]}]}}}}}`)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
