package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// machine is a machine of its own, with a systemd that has booted. It has the programs of this machine,
// and a directory with those files of the tree that docs/deploy.md uses, and the program.
type machine struct {
	systemd string // its process id on this machine
	shared  string // the directory, which is /mnt on the machine
	page    string // docs/deploy.md
}

// asRoot returns the command with what makes it root's.
func asRoot(command ...string) []string {
	if os.Getuid() == 0 {
		return command
	}
	return append([]string{"sudo", "-n"}, command...)
}

// newMachine boots a machine. Its systemd and all that it starts end with the test.
func newMachine(t *testing.T) *machine {
	t.Helper()
	for _, name := range []string{"systemctl", "sudo", "visudo", "pkaction", "dpkg-divert", "curl", "nsenter", "setpriv"} {
		caddytest.FindProgram(t, name)
	}
	_, err := os.Stat("/lib/systemd/system/caddy.service")
	caddytest.Needs(t, "Debian's package caddy", err == nil)
	root := asRoot("true")
	caddytest.Needs(t, "root, or sudo without a password", exec.Command(root[0], root[1:]...).Run() == nil)

	m := &machine{shared: t.TempDir()}
	page, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	m.page = string(page)
	if err := os.CopyFS(filepath.Join(m.shared, "examples"), os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(caddytest.BuildCaddy(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.shared, "caddy"), program, 0o755); err != nil {
		t.Fatal(err)
	}

	boot := asRoot("unshare", "--mount", "sh", "testdata/machine.sh", m.shared)
	cmd := exec.Command(boot[0], boot[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var journal string
		if t.Failed() {
			journal, _ = m.try("journalctl --no-pager -n 100")
		}
		stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the machine has ended with %v, expected that it ends well", err)
		}
		if t.Failed() {
			t.Logf("the journal of the machine:\n%s\n%s", journal, said.String())
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the machine does not boot: %v", err)
	}
	m.systemd = strings.TrimSpace(line)
	caddytest.Eventually(t, "systemd has booted", func() bool {
		out, _ := m.try("systemctl is-system-running")
		return out == "running\n"
	})
	return m
}

// command returns a script that runs on the machine as root, in /mnt.
func (m *machine) command(script string) *exec.Cmd {
	args := asRoot("nsenter", "-t", m.systemd, "--mount", "--pid", "--uts", "--net", "--ipc", "--cgroup", "--root", "--wd",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"bash", "-euc", "cd /mnt\n"+script)
	return exec.Command(args[0], args[1:]...)
}

// try runs a script on the machine and returns what it prints, and its exit code.
func (m *machine) try(script string) (out string, code int) {
	text, err := m.command(script).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(text), exit.ExitCode()
	} else if err != nil {
		return err.Error(), -1
	}
	return string(text), 0
}

// run runs a script on the machine, which must end well, and returns what it prints.
func (m *machine) run(t *testing.T, script string) (out string) {
	t.Helper()
	out, code := m.try(script)
	if code != 0 {
		t.Fatalf("%s\nexit code %d, expected 0:\n%s", script, code, out)
	}
	return out
}

// fails runs a script on the machine, which must fail and say why.
func (m *machine) fails(t *testing.T, script, want string) {
	t.Helper()
	if out, code := m.try(script); code == 0 || !strings.Contains(out, want) {
		t.Errorf("%s\nexit code %d, expected a failure that says %q:\n%s", script, code, want, out)
	}
}

// blocks returns the blocks of commands below a heading of docs/deploy.md.
func (m *machine) blocks(t *testing.T, heading string) (blocks []string) {
	t.Helper()
	_, text, found := strings.Cut(m.page, "\n"+heading+"\n")
	if !found {
		t.Fatalf("found no heading %q in docs/deploy.md", heading)
	}
	if end := regexp.MustCompile(`(?m)^#{1,6} `).FindStringIndex(text); end != nil {
		text = text[:end[0]]
	}
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, block[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("found no commands below %q in docs/deploy.md", heading)
	}
	return blocks
}

// follow runs these blocks in order.
func (m *machine) follow(t *testing.T, heading string) {
	t.Helper()
	for _, block := range m.blocks(t, heading) {
		m.run(t, block)
	}
}

// write makes a file on the machine.
func (m *machine) write(t *testing.T, path, content string) {
	t.Helper()
	cmd := m.command("cat >" + path)
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
}
