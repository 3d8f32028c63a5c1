//go:build unix

package processes_test

import (
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Thirty reloads, each with some of four workers and other settings of their service, while
// eight clients connect again and again. The lock starts, restarts and ends slow processes all the
// time. No client notices: each gets its answer. (Why a unix socket: see TestReloadsUnderLoad.)
func TestReloadsOfServiceUnderLoad(t *testing.T) {
	const clients, workers, reloads = 8, 4, 30
	const server = `import signal, socket, sys, time
def end(*_):
    time.sleep(0.2)
    sys.exit()
signal.signal(signal.SIGTERM, end)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    question = client.recv(8)
    time.sleep(0.01)
    client.sendall(question)
    client.close()`
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	file, socket := filepath.Join(t.TempDir(), "server.py"), caddytest.Socket(t)
	if err := os.WriteFile(file, []byte(server), 0o600); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for range workers {
		addresses = append(addresses, caddytest.FreeAddr(t))
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	config := func() string {
		var some []string
		for _, i := range random.Perm(workers)[:1+random.IntN(workers)] {
			some = append(some, addresses[i])
		}
		return caddytest.LockConfig("unix/"+socket, fmt.Sprintf(`tcplock {
			workers %s
			service %s %s {l4.tcplock.worker_port} {
				start %s
				env VERSION %d
				restart every %d
				stop_idle %dms
			}
		}`, strings.Join(some, " "), caddytest.Python, file, []string{"eager", "lazy"}[random.IntN(2)],
			random.IntN(4)/3, 1+random.IntN(20), random.IntN(2)*100), "{l4.tcplock.worker}")
	}
	caddytest.Load(t, config())
	asked, end := caddytest.KeepAsking(t, clients, socket)
	for range reloads {
		before := asked.Load()
		caddytest.Load(t, config())
		caddytest.Eventually(t, "the line goes on", func() bool { return asked.Load() > before+int32(random.IntN(60)) })
	}
	end()
	caddytest.InLine(t, "default", 0, 0)
}
