// Package browser tests the status page as readers see it: in Chromium, served by the program, with
// real clients at the lock.
package browser

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// patience is how long a test waits for something that must happen.
const patience = 30 * time.Second

func TestMain(m *testing.M) { caddytest.Main(m) }

// caddy is the program, running, with the addresses that a config names by variables.
type caddy struct {
	env     map[string]string
	program *caddytest.Program
}

// newCaddy starts the program with a Caddyfile that uses these variables for addresses. ADMIN and
// STATUS are always among them.
func newCaddy(t *testing.T, caddyfile string, addresses ...string) *caddy {
	t.Helper()
	dir := t.TempDir()
	c := &caddy{env: map[string]string{"XDG_CONFIG_HOME": dir, "XDG_DATA_HOME": dir}}
	for _, name := range append(addresses, "CADDY_ADMIN", "STATUS") {
		c.env[name] = caddytest.FreeAddr(t)
	}
	c.start(t, caddyfile)
	return c
}

// start starts the program, also again after stop.
func (c *caddy) start(t *testing.T, caddyfile string) {
	t.Helper()
	var env []string
	for name, value := range c.env {
		env = append(env, name+"="+value)
	}
	c.program = caddytest.Start(t, env, caddytest.BuildCaddy(t), "run", "--config", caddyfile)
	caddytest.Eventually(t, "Caddy answers", func() bool {
		select {
		case <-c.program.Ended:
			t.Fatal("Caddy has ended")
		default:
		}
		resp, err := http.Get(c.url())
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// stop interrupts Caddy, as Ctrl-C does, and waits for its end.
func (c *caddy) stop(t *testing.T) { c.program.Stop(t) }

func (c *caddy) url() string { return "http://" + c.env["STATUS"] + "/" }

// admin sends a request to the admin API.
func (c *caddy) admin(t *testing.T, method, path string, body io.Reader) string {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+c.env["CADDY_ADMIN"]+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s, error %v", method, path, resp.Status, answer, err)
	}
	return string(answer)
}

// dial connects to one of the addresses.
func (c *caddy) dial(t *testing.T, name string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", c.env[name])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
