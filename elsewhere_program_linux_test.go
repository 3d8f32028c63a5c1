package tcplock_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A second Caddy on the address of a lock is refused, as the command tcplock and by a config file;
// the first one goes on. To validate that config beside the first one works.
func TestSecondCaddyOnAddress(t *testing.T) {
	svc, addr := newService(t, echo), freeAddr(t)
	first := startCommand(t, "-l", addr, "-p", portOf(t, svc.addr), "-h", "127.0.0.1")
	first.listens(t, addr)
	refused := fmt.Sprintf(`lock default: found another process \(caddy, pid %d\) that listens on %s already`, first.cmd.Process.Pid, addr)
	exits(t, startCommand(t, "-l", addr, "-p", portOf(t, svc.addr), "-h", "127.0.0.1"), 1, refused)

	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(lockConfig(addr, "tcplock", svc.addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	caddy := func(command string) *program {
		return start(t, []string{"XDG_DATA_HOME=" + t.TempDir()}, buildCaddy(t), command, "--config", file)
	}
	exits(t, caddy("validate"), 0, "Valid configuration")
	exits(t, caddy("run"), 1, refused)

	client := dial(t, addr)
	send(t, client, "hello")
	expect(t, client, "hello")
}

// Two Caddys share an admin address. A command that asks again and again says so, with their pids.
func TestTwoCaddysAtAdminAddress(t *testing.T) {
	svc, admin := newService(t, echo), admin{freeAddr(t)}
	caddy := func() *program {
		addr, dir := freeAddr(t), t.TempDir()
		file := filepath.Join(dir, "Caddyfile")
		if err := os.WriteFile(file, []byte(admin.in(lockConfig(addr, "tcplock", svc.addr))), 0o600); err != nil {
			t.Fatal(err)
		}
		p := start(t, []string{"XDG_DATA_HOME=" + dir}, buildCaddy(t), "run", "--config", file)
		p.listens(t, addr)
		p.prints(t, "serving initial configuration")
		return p
	}
	one, other := caddy(), caddy()
	top := admin.command(t, "top", "--interval", "10ms")
	top.prints(t, "Warning: two Caddys answer at "+admin.addr)
	for _, p := range []*program{one, other} {
		top.prints(t, fmt.Sprint(p.cmd.Process.Pid))
	}
}

// A reload that lets a lock listen where another process does is refused as well, and the config
// before it stays. What this process listens on already is no reason to refuse.
func TestReloadToAddressOfAnother(t *testing.T) {
	svc, own, others := newService(t, echo), freeAddr(t), freeAddr(t)
	buildCaddy(t)
	load(t, lockConfig(own, "tcplock", svc.addr))
	other := startCommand(t, "-l", others, "-p", portOf(t, svc.addr), "-h", "127.0.0.1")
	other.listens(t, others)

	want := fmt.Sprintf("lock default: found another process (caddy, pid %d) that listens on %s already", other.cmd.Process.Pid, others)
	if err := tryLoad(t, lockConfig(own+" "+others, "tcplock", svc.addr)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("found %v, expected %s", err, want)
	}
	client := dial(t, own)
	send(t, client, "hello")
	expect(t, client, "hello")
	client.Close()
	load(t, lockConfig(own, "tcplock 2", svc.addr)) // a change elsewhere in the config

	other.stop(t)
	load(t, lockConfig(own+" "+others, "tcplock", svc.addr))
	client = dial(t, others)
	send(t, client, "hello")
	expect(t, client, "hello")
}
