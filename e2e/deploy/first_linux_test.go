package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Caddy is the first process of a pid namespace, as in a container. It does not wait for processes that a
// hook has left behind: they stay as zombies. With tini, which is Docker's init, none is left.
func TestFirstProcess(t *testing.T) {
	root := asRoot("true")
	caddytest.Needs(t, "root, or sudo without a password", exec.Command(root[0], root[1:]...).Run() == nil)
	tini := caddytest.FindProgram(t, "tini")
	for _, c := range []struct {
		name    string
		init    []string
		zombies int
	}{{"without an init", nil, 3}, {"with an init", []string{tini, "--"}, 0}} {
		t.Run(c.name, func(t *testing.T) {
			svc, addr, dir := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t), t.TempDir()
			config, left := filepath.Join(dir, "Caddyfile"), filepath.Join(dir, "left")
			// What the hook leaves behind ends after its parent.
			lock := "tcplock {\nlinger 0\non activate exec sh -c `(while kill -0 $$ 2>/dev/null; do sleep 0.01; done; echo ended >>\"$1\") &` x " + left + "\n}"
			if err := os.WriteFile(config, []byte(caddytest.LockConfig(addr, lock, svc.Addr)), 0o600); err != nil {
				t.Fatal(err)
			}
			command := append(asRoot("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"), c.init...)
			command = append(command, caddytest.BuildCaddy(t), "run", "--config", config)
			p := caddytest.Start(t, []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, command[0], command[1:]...)
			p.Prints(t, "serving initial configuration")
			for range 3 {
				client := caddytest.Dial(t, addr)
				caddytest.Send(t, client, "hello")
				caddytest.Expect(t, client, "hello")
				client.Close()
			}
			caddytest.Eventually(t, "what the hooks have left behind has ended", func() bool {
				text, _ := os.ReadFile(left)
				return strings.Count(string(text), "ended") == 3
			})
			caddytest.Eventually(t, fmt.Sprintf("%d zombies are left", c.zombies), func() bool { return zombies(t, p.Cmd.Process.Pid) == c.zombies })

			// unshare itself ignores an interrupt.
			end := asRoot("pkill", "-TERM", "--parent", strconv.Itoa(unshare(t, p.Cmd.Process.Pid)))
			if out, err := exec.Command(end[0], end[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			p.EndsWithin(t, caddytest.Prompt)
		})
	}
}

// ps is a process: its parent, its state and its name.
type ps struct {
	parent      int
	state, name string
}

func processes(t *testing.T) map[int]ps {
	t.Helper()
	out, err := exec.Command("ps", "-e", "-o", "pid=,ppid=,stat=,comm=").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[int]ps)
	for line := range strings.Lines(string(out)) {
		var pid int
		var p ps
		if _, err := fmt.Sscan(line, &pid, &p.parent, &p.state, &p.name); err != nil {
			t.Fatalf("found %q: %v", line, err)
		}
		all[pid] = p
	}
	return all
}

// under reports whether a process is top, or descends from it.
func under(all map[int]ps, pid, top int) bool {
	for ; pid > 1; pid = all[pid].parent {
		if pid == top {
			return true
		}
	}
	return false
}

// zombies returns how many zombies descend from a process.
func zombies(t *testing.T, top int) (n int) {
	t.Helper()
	all := processes(t)
	for pid, p := range all {
		if p.state[0] == 'Z' && under(all, pid, top) {
			n++
		}
	}
	return n
}

// unshare returns the process of that name: top, or one below it.
func unshare(t *testing.T, top int) int {
	t.Helper()
	all := processes(t)
	for pid, p := range all {
		if p.name == "unshare" && under(all, pid, top) {
			return pid
		}
	}
	t.Fatal("found no process unshare")
	return 0
}
