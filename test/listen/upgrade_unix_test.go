//go:build unix

package listen_test

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// upgraded is a Caddy on a socket that the test holds. It is replaced as docs/deploy.md says.
type upgraded struct {
	addr   string
	admin  caddytest.Admin
	file   *os.File // the socket
	dir    string
	caddy  *caddytest.Program
	config string // its file
}

// newUpgraded starts Caddy with this lock.
func newUpgraded(t *testing.T, lock, service string) *upgraded {
	t.Helper()
	u := &upgraded{dir: t.TempDir()}
	u.addr, u.file = heldSocket(t)
	var config string
	config, u.admin = caddytest.WithAdmin(t, caddytest.LockConfig("fd/3", lock, service))
	u.config = filepath.Join(u.dir, "Caddyfile")
	if err := os.WriteFile(u.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	u.start(t)
	return u
}

func (u *upgraded) start(t *testing.T) {
	t.Helper()
	env := []string{"XDG_DATA_HOME=" + u.dir, "XDG_CONFIG_HOME=" + u.dir}
	u.caddy = caddytest.StartWith(t, []*os.File{u.file}, env, caddytest.Caddy(t), "run", "--config", u.config)
	u.caddy.Prints(t, "serving initial configuration")
}

// leave takes the locks out of the config. Caddy listens no longer.
func (u *upgraded) leave(t *testing.T) {
	t.Helper()
	if resp, body := u.admin.Ask(t, "DELETE", "/config/apps/layer4"); resp.StatusCode != 200 {
		t.Fatalf("found status %d: %s", resp.StatusCode, body)
	}
}

func (u *upgraded) locks(t *testing.T) int {
	t.Helper()
	return len(caddytest.Asks[struct{ Locks []status.Lock }](t, u.admin, "GET", status.AdminPath).Locks)
}

// restart waits until the last connection of the lock has ended, and replaces Caddy.
func (u *upgraded) restart(t *testing.T) {
	t.Helper()
	caddytest.Eventually(t, "the lock is gone", func() bool { return u.locks(t) == 0 })
	u.caddy.Stop(t)
	u.start(t)
}

// A Caddy whose locks leave the config serves its line to the end, in order and with the hooks. A client
// that comes meanwhile waits in the socket, and the next Caddy serves it.
func TestUpgradeServesLine(t *testing.T) {
	t.Parallel()
	svc := caddytest.NewService(t, nil)
	ran := filepath.Join(t.TempDir(), "ran")
	u := newUpgraded(t, "tcplock {\nlinger 0\non release exec sh -c `echo hook >>\"$1\"` x "+ran+"\n}", svc.Addr)
	const late = 4
	clients := make([]net.Conn, late+1)
	for i := range late {
		clients[i] = caddytest.DialSend(t, u.addr, caddytest.Number(i))
		caddytest.Eventually(t, "the client has come to the lock", func() bool {
			l := u.admin.Lock(t, "default")
			return l.Held+l.Waiting == i+1
		})
	}
	holder := svc.Gets(t, 0)
	u.leave(t)
	clients[late] = caddytest.DialSend(t, u.addr, caddytest.Number(late))
	for i := range late {
		if u.locks(t) != 1 {
			t.Error("found no lock, expected the one with a holder")
		}
		svc.Leave(holder)
		clients[i].Close()
		if i+1 < late {
			holder = svc.Gets(t, i+1)
		}
	}
	svc.NoneComes(t, "the old Caddy does not listen any more")
	u.restart(t)
	svc.Leave(svc.Gets(t, late))
	if n := len(caddytest.Noted(t, ran)); n < late {
		t.Errorf("the release hook ran %d times, expected %d", n, late)
	}
}

// While clients come and go all the time, Caddy is replaced three times. No client is lost.
func TestUpgradeLosesNothing(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	svc := caddytest.NewService(t, echoLine)
	u := newUpgraded(t, "tcplock 2 {\nlinger 0\n}", svc.Addr)
	var all atomic.Int64
	var clients sync.WaitGroup
	var over atomic.Bool
	for range 24 {
		clients.Go(func() {
			for !over.Load() {
				if err := ask(u.addr); err != nil {
					t.Error(err)
					return
				}
				all.Add(1)
			}
		})
	}
	defer clients.Wait()
	defer over.Store(true)
	for range 3 {
		next := all.Load() + 100
		caddytest.Eventually(t, "100 more connections", func() bool { return all.Load() >= next })
		u.leave(t)
		u.restart(t)
	}
}
