package services_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

const systemdExample = "../../examples/systemd"

// TestSystemdSocket drives examples/systemd with systemd's own program for that: it holds the socket,
// starts Caddy when the first client comes, and passes the socket.
func TestSystemdSocket(t *testing.T) {
	activate := caddytest.FindProgram(t, "systemd-socket-activate")
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, home := caddytest.FreeAddr(t), t.TempDir()
	p := caddytest.Start(t, nil, activate, "-l", addr, "-E", "SERVICE="+svc.Addr, "-E", "HOME="+home,
		caddytest.BuildCaddy(t), "run", "--config", systemdExample+"/Caddyfile")
	p.Prints(t, "Listening on "+addr)
	for range 3 {
		client := caddytest.Dial(t, addr)
		caddytest.Send(t, client, "hello")
		caddytest.Expect(t, client, "hello")
		client.Close()
	}
	p.Lives(t)
}

// systemd accepts the units of examples/systemd.
func TestSystemdUnits(t *testing.T) {
	analyze := caddytest.FindProgram(t, "systemd-analyze")
	dir := t.TempDir()
	read := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join(systemdExample, name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	write := func(name string, content []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("caddy.socket", read("caddy.socket"))
	write("caddy.service", []byte("[Service]\nExecStart=/bin/true\n")) // that of Caddy's package stands elsewhere
	for _, dropIn := range []string{"limits.conf", "socket.conf"} {
		write("caddy.service.d/"+dropIn, read(dropIn))
	}
	out, err := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, "caddy.socket"), filepath.Join(dir, "caddy.service")).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}
