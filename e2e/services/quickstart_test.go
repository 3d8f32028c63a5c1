package services_test

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What examples/quickstart says holds, with the program and nc, down to the lines in the log.
func TestQuickstartByNetcat(t *testing.T) {
	nc := netcat(t)
	addr, service, page, dir := caddytest.FreeAddr(t), caddytest.FreeAddr(t), caddytest.FreeAddr(t), t.TempDir()
	server := caddytest.Start(t, []string{
		"LOCK=" + addr, "SERVICE=" + service, "STATUS=" + page, "CADDY_ADMIN=" + caddytest.FreeAddr(t),
		"XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir,
	}, caddytest.BuildCaddy(t), "run", "--config", "../../examples/quickstart/Caddyfile")
	server.Prints(t, "serving initial configuration")
	server.Prints(t, fmt.Sprintf(`"lock listens","lock":"default","listen":[%q],"to":[%q],"slots":1}`, addr, service))
	host, port, _ := net.SplitHostPort(addr)
	v := caddytest.OpenStream(t, caddytest.PageClient, "http://"+page+"/", "") // what the page shows

	first := caddytest.Start(t, nil, nc, "-v", host, port)
	first.Types(t, "one\n")
	first.Prints(t, "one\n")
	second := caddytest.Start(t, nil, nc, "-v", host, port)
	second.Types(t, "two\n")
	second.Prints(t, "succeeded") // nc says so when it is connected
	v.Knows(t, "default", 1, 1)
	first.Types(t, "uno\n")
	first.Prints(t, "uno\n")
	if out := second.Out.String(); strings.Contains(out, "two") {
		t.Errorf("the second client got an answer while the first was there: %s", out)
	}
	first.Stop(t)
	second.Prints(t, "two\n")
	v.Knows(t, "default", 1, 0)
	second.Stop(t)
	v.Knows(t, "default", 0, 0)

	// The log says so too, in this order.
	from := 0
	for _, moment := range []string{"activate,1", "release,1", "activate,2", "release,2"} {
		on, connection, _ := strings.Cut(moment, ",")
		line := fmt.Sprintf(`"moment":%q,"slot":1,"connection":%s,`, on, connection)
		server.Prints(t, line)
		at := strings.Index(server.Out.String(), line)
		if at < from {
			t.Errorf("found %s before the line it follows:\n%s", line, server.Out.String())
		}
		from = at
	}
	server.Stop(t)
}

// netcat returns the path of OpenBSD's nc. In other programs of that name, -N means something else.
func netcat(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("nc")
	found := err == nil
	if found {
		help, _ := exec.Command(path, "-h").CombinedOutput()
		found = bytes.Contains(help, []byte("OpenBSD netcat"))
	}
	caddytest.Needs(t, "netcat-openbsd", found)
	return path
}
