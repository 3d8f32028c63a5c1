//go:build unix

package listen_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// heldSocket returns a listening socket that the test holds, as systemd does with that of a .socket unit.
func heldSocket(t *testing.T) (addr string, file *os.File) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // file is a copy
	if file, err = ln.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return ln.Addr().String(), file
}

// The parent of Caddy holds the listening socket and passes it on. Caddy ends and starts again, as with
// systemctl restart or another binary, while clients come. None of them is refused or reset: they wait
// until Caddy is back.
func TestSocketActivation(t *testing.T) {
	svc := caddytest.NewService(t, echoLine)
	addr, file := heldSocket(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "Caddyfile")
	const lock = "tcplock 4 {\nlinger 0\non activate {\nevery 20\nexec test ! -S /dev/fd/3\n}\n}" // no command gets the socket
	if err := os.WriteFile(config, []byte(caddytest.LockConfig("fd/3", lock, svc.Addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *caddytest.Program {
		env := []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
		return caddytest.StartWith(t, []*os.File{file}, env, caddytest.Caddy(t), "run", "--config", config)
	}
	for range 3 {
		program := start()
		if err := ask(addr); err != nil {
			t.Errorf("while Caddy runs: %v", err)
		}
		program.Stop(t)
		var clients sync.WaitGroup
		for range 20 {
			clients.Go(func() {
				if err := ask(addr); err != nil {
					t.Errorf("while Caddy is away: %v", err)
				}
			})
		}
		program = start()
		clients.Wait()
		program.Stop(t)
	}
}

// Reloads lose no connection of a socket that was passed to Caddy.
func TestPassedSocketLosesNothing(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, echoLine)
	addr, file := heldSocket(t)
	config := func(slots int) string {
		return caddytest.LockConfig(fmt.Sprint("fd/", file.Fd()), fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), svc.Addr)
	}
	l := reloadUnder(t, addr, 100, [2]string{config(8), config(9)})
	t.Log(l)
	if l.lost.Load() > 0 {
		t.Errorf("%s, expected none", l)
	}
}
