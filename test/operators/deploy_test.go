//go:build unix

package operators_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The line of a deploy script deploys when there is no holder, and then resumes. While there is
// a holder, it does not deploy.
func TestDeployScript(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	o := newOperated(t, "")
	script := fmt.Sprintf("%s tcplock drain printer --address %s --wait --timeout $0 && echo deployed && %[1]s tcplock resume printer --address %[2]s", caddytest.Caddy(t), o.Admin.Addr)
	caddytest.Dial(t, o.addr)
	held := o.service.Next(t)
	out := caddytest.Exits(t, caddytest.Start(t, nil, "sh", "-c", script, "100ms"), 4, "still 1 holder")
	if strings.Contains(out, "deployed") {
		t.Errorf("deployed with a holder:\n%s", out)
	}
	deploy := caddytest.Start(t, nil, "sh", "-c", script, "1h")
	deploy.Prints(t, "1 of 1 slot held")
	o.service.Leave(held)
	caddytest.Exits(t, deploy, 0, `(?s)printer: drained after .*\ndeployed\nprinter: open;`)
}
