package operators_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The status page and the metrics tell the versions. (In the program of a test, Go notes only its own.)
func TestVersionIsTold(t *testing.T) {
	config, a := caddytest.WithAdmin(t, caddytest.PageConfig(caddytest.FreeAddr(t), "127.0.0.1:1", "SITE", "tcplock_status"))
	site := caddytest.FreeAddr(t)
	caddytest.Load(t, strings.ReplaceAll(config, "SITE", site))
	a.Measures(t, map[string]float64{
		fmt.Sprintf("build_info{caddy=devel caddy_l4=devel go=%s version=devel}", runtime.Version()): 1,
	})
	_, page := caddytest.Fetch(t, "GET", "http://"+site+"/", "text/html")
	if want := "<footer>tcplock devel, Caddy devel, caddy-l4 devel</footer>"; !strings.Contains(string(page), want) {
		t.Errorf("found no %q in the page, expected it", want)
	}
}
