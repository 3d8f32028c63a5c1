package docs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Each example of README.md and of the handler's pages is formatted, and valid in the place that
// its page names.
func TestDocExamples(t *testing.T) {
	for _, page := range []string{"README.md", "docs/handler.md", "docs/hooks.md", "docs/service.md", "docs/placement.md", "docs/running.md"} {
		text, err := os.ReadFile(filepath.Join(caddytest.Root, page))
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range regexp.MustCompile("(?ms)^```(caddyfile|json)\n(.*?)^```$").FindAllSubmatch(text, -1) {
			t.Run(fmt.Sprintf("%s/%d", page, i+1), func(t *testing.T) {
				kind, example := string(block[1]), string(block[2])
				if kind == "json" {
					if !strings.Contains(example, `"apps"`) {
						example = `{"apps": {"layer4": {"servers": {"s": {"listen": [":9000"], "routes": [{"handle": [` + example + `, {"handler": "proxy", "upstreams": [{"dial": ["localhost:8100"]}]}]}]}}}}}`
					}
					validExample(t, []byte(example))
					return
				}
				if strings.Contains(example, "<") {
					return // a grammar
				}
				if formatted := caddyfile.Format([]byte(example)); !bytes.Equal(formatted, []byte(example)) {
					t.Errorf("not formatted, expected\n%s", formatted)
				}
				switch {
				case strings.HasPrefix(example, "{"):
				case strings.HasPrefix(example, "@"), strings.HasPrefix(example, "route"):
					example = "{\nlayer4 {\n:9000 {\n" + example + "}\n}\n}\n"
				case strings.HasPrefix(example, "on "), strings.HasPrefix(example, "service "):
					example = "{\nlayer4 {\n:9000 {\nroute {\ntcplock {\n" + example + "}\nproxy localhost:8100\n}\n}\n}\n}\n"
				default:
					example = "{\nlayer4 {\n:9000 {\nroute {\n" + example + "}\n}\n}\n}\n"
				}
				validExample(t, caddytest.Adapt(t, example))
			})
		}
	}
}

// validExample makes sure that Caddy would take a config.
func validExample(t *testing.T, config []byte) {
	t.Helper()
	var cfg caddy.Config
	if err := json.Unmarshal(caddytest.KeptToTest(t, config), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&cfg); err != nil {
		t.Errorf("%v\n%s", err, config)
	}
}
