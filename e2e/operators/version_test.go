package operators_test

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The program tells the versions that go.mod asks for.
func TestVersionCommand(t *testing.T) {
	caddy, goMod := caddytest.BuildCaddy(t), caddytest.ReadDoc(t, "go.mod")
	var v struct{ Version, Caddy, Caddy_L4, Go string }
	out := caddytest.Exits(t, caddytest.Start(t, nil, caddy, "tcplock", "version", "--json"), 0, `^\{.*\}\s*$`)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if v.Version != "devel" || v.Go != runtime.Version() ||
		!strings.Contains(goMod, "github.com/caddyserver/caddy/v2 "+v.Caddy+"\n") || !strings.Contains(goMod, "github.com/mholt/caddy-l4 "+v.Caddy_L4+"\n") {
		t.Errorf("found %+v, expected version devel, and the others from go.mod", v)
	}
}
