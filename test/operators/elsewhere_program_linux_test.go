package operators_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A second Caddy on the address of a lock is refused, as the command tcplock and with a config
// file. The first one goes on. It is possible to validate that config beside the first one.
func TestSecondCaddyOnAddress(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	svc, addr := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
	first := caddytest.StartCaddy(t, 0, caddytest.LockConfig(addr, "tcplock", svc.Addr)) // not on keep/: then the system refuses the second
	first.Listens(t, addr)
	refused := fmt.Sprintf(`found another process \(caddy, pid %d\) that listens on %s already`, first.Cmd.Process.Pid, addr)
	caddytest.Exits(t, caddytest.StartCommand(t, "-l", addr, "-p", caddytest.PortOf(t, svc.Addr), "-h", "127.0.0.1"), 1, refused)

	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(caddytest.LockConfig(addr, "tcplock", svc.Addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	caddy := func(command string) *caddytest.Program {
		return caddytest.Start(t, []string{"XDG_DATA_HOME=" + t.TempDir()}, caddytest.Caddy(t), command, "--config", file)
	}
	caddytest.Exits(t, caddy("validate"), 0, "Valid configuration")
	caddytest.Exits(t, caddy("run"), 1, refused)

	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "hello")
	caddytest.Expect(t, client, "hello")
}

// Two Caddys share an admin address. A command that asks more than once says so, with their
// pids.
func TestTwoCaddysAtAdminAddress(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	svc, admin := caddytest.NewService(t, caddytest.Echo), caddytest.Admin{Addr: caddytest.FreeAddr(t)}
	caddy := func() *caddytest.Program {
		addr, dir := caddytest.FreeAddr(t), t.TempDir()
		file := filepath.Join(dir, "Caddyfile")
		if err := os.WriteFile(file, []byte(admin.In(caddytest.LockConfig(addr, "tcplock", svc.Addr))), 0o600); err != nil {
			t.Fatal(err)
		}
		p := caddytest.Start(t, []string{"XDG_DATA_HOME=" + dir}, caddytest.Caddy(t), "run", "--config", file)
		p.Listens(t, addr)
		p.Prints(t, "serving initial configuration")
		return p
	}
	one, other := caddy(), caddy()
	top := admin.Command(t, "top", "--interval", "10ms")
	top.Prints(t, "Warning: two Caddys answer at "+admin.Addr)
	for _, p := range []*caddytest.Program{one, other} {
		top.Prints(t, fmt.Sprint(p.Cmd.Process.Pid))
	}
}

// A reload with a lock on an address of another process is refused too, and the config before
// it stays. An address on which this process listens already is fine.
func TestReloadToAddressOfAnother(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc, own, others := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.LockConfig(own, "tcplock", svc.Addr))
	other := caddytest.StartCaddy(t, 0, caddytest.LockConfig(others, "tcplock", svc.Addr))
	other.Listens(t, others)

	want := fmt.Sprintf("lock default: found another process (caddy, pid %d) that listens on %s already", other.Cmd.Process.Pid, others)
	if err := caddytest.TryLoad(t, caddytest.LockConfig(own+" "+others, "tcplock", svc.Addr)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("found %v, expected %s", err, want)
	}
	client := caddytest.Dial(t, own)
	caddytest.Send(t, client, "hello")
	caddytest.Expect(t, client, "hello")
	client.Close()
	caddytest.Load(t, caddytest.LockConfig(own, "tcplock 2", svc.Addr)) // a change elsewhere in the config

	other.Stop(t)
	caddytest.Load(t, caddytest.LockConfig(own+" "+others, "tcplock", svc.Addr))
	client = caddytest.Dial(t, others)
	caddytest.Send(t, client, "hello")
	caddytest.Expect(t, client, "hello")
}
