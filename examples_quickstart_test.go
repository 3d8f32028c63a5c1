package tcplock_test

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// The service answers the first client, and the second one when the first has left.
// With the program and nc it is as the README says, down to the lines in the log.
func driveQuickstart(t *testing.T) {
	t.Run("in process", func(t *testing.T) {
		t.Setenv("STATUS", freeAddr(t))
		addr, _ := loadExample(t, "quickstart", freeAddr(t))
		first := dial(t, addr)
		send(t, first, "one")
		expect(t, first, "one")
		second := dial(t, addr)
		send(t, second, "two")
		inLine(t, "default", 1, 1)
		send(t, first, "uno")
		expect(t, first, "uno")
		first.Close()
		expect(t, second, "two")
	})
	t.Run("program and nc", func(t *testing.T) {
		nc := netcat(t)
		addr, service, page, dir := freeAddr(t), freeAddr(t), freeAddr(t), t.TempDir()
		server := start(t, []string{
			"LOCK=" + addr, "SERVICE=" + service, "STATUS=" + page, "CADDY_ADMIN=" + freeAddr(t),
			"XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir,
		}, buildCaddy(t), "run", "--config", "examples/quickstart/Caddyfile")
		server.prints(t, "serving initial configuration")
		server.prints(t, fmt.Sprintf(`"lock listens","lock":"default","listen":[%q],"to":[%q],"slots":1}`, addr, service))
		host, port, _ := net.SplitHostPort(addr)
		v := view(t, pageClient, "http://"+page+"/", "") // what the page shows

		first := start(t, nil, nc, "-v", host, port)
		first.types(t, "one\n")
		first.prints(t, "one\n")
		second := start(t, nil, nc, "-v", host, port)
		second.types(t, "two\n")
		second.prints(t, "succeeded") // nc says so when it is connected
		v.knows(t, "default", 1, 1)
		first.types(t, "uno\n")
		first.prints(t, "uno\n")
		if out := second.out.String(); strings.Contains(out, "two") {
			t.Errorf("the second client got an answer while the first was there: %s", out)
		}
		first.stop(t)
		second.prints(t, "two\n")
		v.knows(t, "default", 1, 0)
		second.stop(t)
		v.knows(t, "default", 0, 0)

		// The log tells it too, in this order.
		from := 0
		for _, moment := range []string{"activate,1", "release,1", "activate,2", "release,2"} {
			on, connection, _ := strings.Cut(moment, ",")
			line := fmt.Sprintf(`"moment":%q,"slot":1,"connection":%s,`, on, connection)
			server.prints(t, line)
			at := strings.Index(server.out.String(), line)
			if at < from {
				t.Errorf("found %s before the line it follows:\n%s", line, server.out.String())
			}
			from = at
		}
		server.stop(t)
	})
}

// netcat returns the path of nc, OpenBSD's: -N is something else in others.
func netcat(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("nc")
	found := err == nil
	if found {
		help, _ := exec.Command(path, "-h").CombinedOutput()
		found = bytes.Contains(help, []byte("OpenBSD netcat"))
	}
	needs(t, "netcat-openbsd", found)
	return path
}
