package deploy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// A service that tells each client its process id, and then sends back what it gets.
const service = `import os, socketserver
class Client(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d\n" % os.getpid())
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("127.0.0.1", 8100), Client).serve_forever()
`

// A client that prints the process id of the service.
const client = "exec 3<>/dev/tcp/127.0.0.1/9000; read -r pid <&3; echo $pid"

// pid returns the process id of the service that a client of the lock gets.
func (m *machine) pid(t *testing.T) string {
	t.Helper()
	out := m.run(t, client)
	if strings.TrimSpace(out) == "" {
		t.Fatal("the client got no process id")
	}
	return out
}

// configure makes a lock with these options Caddy's config, on the socket of systemd, and reloads it.
func (m *machine) configure(t *testing.T, options string) {
	t.Helper()
	m.write(t, "/etc/caddy/Caddyfile", fmt.Sprintf("{\n\tlayer4 {\n\t\tfd/3 {\n\t\t\troute {\n\t\t\t\ttcplock {\n%s\n\t\t\t\t}\n\t\t\t\tproxy localhost:8100\n\t\t\t}\n\t\t}\n\t}\n}\n", options))
	m.run(t, "systemctl reload caddy")
}

// The chapter about systemd, with Debian's package and a real systemd, polkit and sudo.
func TestSystemd(t *testing.T) {
	m := newMachine(t)
	m.write(t, "/mnt/service.py", service)
	m.write(t, "/etc/systemd/system/soffice.service", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart="+caddytest.Python+" /mnt/service.py\nKillSignal=SIGKILL\n")
	m.write(t, "/etc/systemd/system/other.service", "[Service]\nExecStart=/bin/sleep infinity\n")
	m.run(t, "systemctl daemon-reload; systemctl start soffice caddy")
	for _, step := range []struct {
		name string
		do   func(*testing.T, *machine)
	}{
		{"install", install}, {"limits", limits}, {"socket", socket}, {"polkit", withPolkit}, {"sudo", withSudo}, {"often", often},
		{"drain", drain},
		{"upgrade", upgrade}, {"back", back},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.do(t, m) }) {
			return // each step builds on the ones before
		}
	}
}

// The package stays, and its unit runs the program with tcplock.
func install(t *testing.T, m *machine) {
	m.follow(t, "### Install")
	got := m.run(t, `readlink /proc/$(systemctl show -P MainPID caddy)/exe; dpkg-divert --truename /usr/bin/caddy; systemctl show -P User caddy`)
	if want := "/usr/bin/caddy.tcplock\n/usr/bin/caddy.default\ncaddy\n"; got != want {
		t.Errorf("the program, the place of that of the package, and the user: found %s, expected %s", got, want)
	}
}

// The drop-in wins over the package's unit. (Whether the machine may give Caddy as many descriptors is another question.)
func limits(t *testing.T, m *machine) {
	m.follow(t, "### Limits")
	got := m.run(t, `systemctl show -P TimeoutStopUSec -P LimitNPROC -P LimitNOFILE caddy; awk '/Max processes/ {print $4}' /proc/$(systemctl show -P MainPID caddy)/limits`)
	if want := "1min 5s\n1048576\n16384\n16384\n"; got != want {
		t.Errorf("time to stop, files, threads, and the threads that Caddy may have: found %s, expected %s", got, want)
	}
}

// systemd holds the socket. Clients that come while there is no Caddy wait, start it, and are served.
func socket(t *testing.T, m *machine) {
	m.follow(t, "### A socket that outlives Caddy")
	m.pid(t)
	m.run(t, "systemctl stop caddy; for i in $(seq 20); do ("+client+") & pids=\"${pids-} $!\"; done; for p in $pids; do wait $p; done")
	caddytest.Eventually(t, "Caddy is active", func() bool {
		out, _ := m.try("systemctl is-active caddy caddy.socket")
		return out == "active\nactive\n"
	})
}

const restarting = "\t\t\t\t\ton activate {\n\t\t\t\t\t\texec %ssystemctl restart soffice.service\n\t\t\t\t\t\twait localhost:8100\n\t\t\t\t\t}"

// Only with the rule may the hook restart the unit, and nothing else.
func withPolkit(t *testing.T, m *machine) {
	m.configure(t, fmt.Sprintf(restarting, ""))
	const denied = "Interactive authentication required"
	if out, code := m.try(client); code == 0 {
		t.Errorf("without the rule, the client got %q, expected to be refused", out)
	}
	if out := m.run(t, "caddy tcplock status default; journalctl --no-pager -u caddy"); strings.Count(out, denied) < 2 {
		t.Errorf("found no %q in status and log:\n%s", denied, out)
	}
	blocks := m.blocks(t, "#### With polkit")
	m.run(t, blocks[0])
	caddytest.Eventually(t, "polkit has read the rule", func() bool {
		_, code := m.try(blocks[1])
		return code == 0
	})
	one, two := m.pid(t), m.pid(t)
	if one == two {
		t.Errorf("found the same process %s for two clients, expected a restart", one)
	}
	for _, command := range []string{"restart other", "stop soffice", "start soffice", "daemon-reload"} {
		m.fails(t, "runuser -u caddy -- systemctl "+command, "uthentication required")
	}
	m.fails(t, "runuser -u nobody -- systemctl restart soffice", denied)
	m.run(t, "rm /etc/polkit-1/rules.d/50-tcplock.rules")
}

// Only with the file may the hook restart the unit, and nothing else.
func withSudo(t *testing.T, m *machine) {
	m.configure(t, fmt.Sprintf(restarting, "sudo -n "))
	if out, code := m.try(client); code == 0 {
		t.Errorf("without the file, the client got %q, expected to be refused", out)
	}
	m.follow(t, "#### With sudo")
	one, two := m.pid(t), m.pid(t)
	if one == two {
		t.Errorf("found the same process %s for two clients, expected a restart", one)
	}
	for _, command := range []string{"restart other.service", "restart soffice.service other.service", "stop soffice.service", "daemon-reload"} {
		m.fails(t, "runuser -u caddy -- sudo -n systemctl "+command, "a password is required")
	}
	m.run(t, "rm /etc/sudoers.d/tcplock")
}

// systemd refuses to restart a unit often, unless the unit says otherwise.
func often(t *testing.T, m *machine) {
	const six = "for i in 1 2 3 4 5 6; do systemctl restart %s; done"
	m.fails(t, fmt.Sprintf(six, "other"), "start of the service was attempted too often")
	m.run(t, fmt.Sprintf(six, "soffice"))
}

// A holder has longer to finish than the 5 seconds that the package's unit has.
func drain(t *testing.T, m *machine) {
	m.configure(t, "\t\t\t\t\tdrain 50s")
	m.background(t, "holder", holds)
	m.lock(t, 1, 0)
	restarted := make(chan string)
	go func() {
		out, _ := m.try("systemctl restart caddy")
		restarted <- out
	}()
	select {
	case out := <-restarted:
		t.Fatalf("Caddy has restarted before its holder had finished: %s", out)
	case <-time.After(6 * time.Second): // longer than the package's TimeoutStopSec
	}
	m.run(t, "touch /mnt/holder.go")
	m.says(t, "holder", "bye")
	<-restarted
}

// Caddy is replaced while connections hold a slot and wait. All of them are served, and so is a client that comes
// after the old Caddy has stopped to listen.
func upgrade(t *testing.T, m *machine) {
	m.configure(t, "")
	// If root checks the config, it creates this file, and Caddy may not write to it.
	m.run(t, `sed -i '1a log {\noutput file /var/log/caddy/new.log\n}' /etc/caddy/Caddyfile`)
	m.follow(t, "### With a restart")
	m.pid(t)

	before := m.run(t, "systemctl show -P MainPID caddy")
	for i := range 3 {
		m.background(t, fmt.Sprint("client", i), holds)
		m.lock(t, 1, i)
	}
	script := strings.Join(m.blocks(t, "### Without losing the line"), "\n")
	upgraded := make(chan int)
	go func() {
		_, code := m.try(script)
		upgraded <- code
	}()
	caddytest.Eventually(t, "the config has no layer4", func() bool {
		out, _ := m.try("curl -s localhost:2019/config/apps/layer4")
		return out == "null\n"
	})
	m.background(t, "client3", holds)
	for i := range 4 {
		if i == 3 {
			if code := <-upgraded; code != 0 {
				t.Fatalf("exit code %d, expected 0: %s", code, script)
			}
		}
		m.says(t, fmt.Sprint("client", i), "hello")
		m.run(t, fmt.Sprintf("touch /mnt/client%d.go", i))
		m.says(t, fmt.Sprint("client", i), "bye")
	}
	if after := m.run(t, "systemctl show -P MainPID caddy"); after == before {
		t.Errorf("found the same Caddy %s, expected another", after)
	}
}

// The package's program is back, and dpkg finds nothing of the package changed but its config.
func back(t *testing.T, m *machine) {
	m.follow(t, "### Back to the package")
	if got := m.run(t, "readlink -f /usr/bin/caddy; dpkg -V caddy | grep -v /etc/caddy/Caddyfile || true"); got != "/usr/bin/caddy\n" {
		t.Errorf("found %s, expected the program of the package, unchanged", got)
	}
}

// A client that says hello when it has reached the service, and bye when a file lets it go and the service has
// answered once more.
const holds = `exec 3<>/dev/tcp/127.0.0.1/9000; read -r pid <&3; echo hello; while [ ! -e /mnt/$name.go ]; do sleep 0.05; done; echo bye >&3; read -r bye <&3; echo $bye`

// background starts a script that writes into a file with this name. The script may use $name.
func (m *machine) background(t *testing.T, name, script string) {
	t.Helper()
	m.run(t, fmt.Sprintf("rm -f /mnt/%[1]s.go; name=%[1]s; (%s) >/mnt/%[1]s 2>&1 </dev/null &", name, script))
}

// says waits until such a script has said this.
func (m *machine) says(t *testing.T, name, want string) {
	t.Helper()
	caddytest.Eventually(t, name+" says "+want, func() bool {
		return strings.HasSuffix(m.run(t, "cat /mnt/"+name), want+"\n")
	})
}

// lock waits until the lock has so many holders and waiters.
func (m *machine) lock(t *testing.T, held, waiting int) {
	t.Helper()
	caddytest.Eventually(t, fmt.Sprintf("the lock has %d holders and %d waiters", held, waiting), func() bool {
		var l status.Lock
		out, _ := m.try("curl -fsS localhost:2019/tcplock/locks/default")
		return json.Unmarshal([]byte(out), &l) == nil && l.Held == held && l.Waiting == waiting
	})
}
