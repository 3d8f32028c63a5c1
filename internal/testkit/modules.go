package testkit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// WantSteps reads each step of hooks as in a Caddyfile, and wants the JSON or the error.
func WantSteps(t *testing.T, steps map[string]string) {
	t.Helper()
	for input, want := range steps {
		d := caddyfile.NewTestDispenser(input)
		d.Next()
		step, err := caddyfile.UnmarshalModule(d, "layer4.tcplock.hooks."+d.Val())
		got := fmt.Sprint(err)
		if err == nil {
			raw, err := json.Marshal(step)
			if err != nil {
				t.Fatal(err)
			}
			got = string(raw)
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", input, got, want)
		}
	}
}

// WantJSONRefused loads each module, and wants an error that contains this.
func WantJSONRefused(t *testing.T, id string, modules map[string]string) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for input, want := range modules {
		_, err := ctx.LoadModuleByID(id, []byte(input))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v, expected %s", input, err, want)
		}
	}
}
