//go:build unix

package tcplock_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// terminal is a terminal of tmux, in which a command runs.
type terminal struct {
	t      *testing.T
	socket string
}

// newTerminal opens one of that size and types a command line into a shell.
func newTerminal(t *testing.T, width, height int, command string) *terminal {
	t.Helper()
	findProgram(t, "tmux")
	term := &terminal{t, filepath.Join(t.TempDir(), "tmux")}
	term.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), "env PS1='ready> ' LC_ALL=C.UTF-8 sh")
	t.Cleanup(func() { term.tmux("kill-server") })
	term.shows(`^ready>`)
	term.types(command, "Enter")
	return term
}

func (t *terminal) tmux(args ...string) string {
	t.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-u", "-S", t.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// types types text, or keys by their names.
func (t *terminal) types(keys ...string) {
	t.t.Helper()
	t.tmux(append([]string{"send-keys"}, keys...)...)
}

// screen is what stands there.
func (t *terminal) screen(options ...string) string {
	t.t.Helper()
	return t.tmux(append([]string{"capture-pane", "-p"}, options...)...)
}

// shows waits until the screen shows this.
func (t *terminal) shows(want string) {
	t.t.Helper()
	pattern := regexp.MustCompile("(?m)" + want)
	for end := time.Now().Add(patience); !pattern.MatchString(t.screen()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.t.Fatalf("found no %q on the screen:\n%s", want, t.screen())
		}
	}
}

// top in a real terminal: it shows who holds and who waits, pauses, resumes and kicks,
// fits itself to the terminal's size, survives a restart of Caddy, and leaves the
// terminal as it was.
func TestTopInTerminal(t *testing.T) {
	svc, addr := newService(t, nil), freeAddr(t)
	config, admin := withAdmin(t, lockConfig(addr, "tcplock 1 {\nname printer\n}", svc.addr))
	caddy := startCaddy(t, 0, config)
	term := newTerminal(t, 80, 24, buildCaddy(t)+" tcplock top --interval 50ms --address "+admin.addr)
	term.shows(`^ ▸ printer +0/1 +0 `)

	holder := dial(t, addr)
	held := svc.next(t)
	waiter := dial(t, addr)
	term.shows(`^ ▸ printer +1/1 +1 `)
	term.shows(`^ +1 +1 +` + holder.LocalAddr().String())
	term.shows(`^ +1 +2 +` + waiter.LocalAddr().String())

	term.types("p")
	term.shows(`^ printer: paused$`)
	term.shows(`^ ▸ printer .* paused for `)
	svc.leave(held)
	expectClosed(t, holder)
	term.shows(`^ ▸ printer +0/1 +1 `)
	svc.nobody(t, "the lock is paused")

	term.types("Tab", "k")
	term.shows(`^ Kick connection 2 \(` + waiter.LocalAddr().String() + `, waiting\)\? y/n$`)
	term.types("y")
	expectClosed(t, waiter)
	term.types("r")
	term.shows(`^ printer: resumed$`)
	term.shows(`^ ▸ printer .* open$`)

	term.tmux("resize-window", "-x", "150", "-y", "40")
	term.shows(`^   LOCK .* P50 .* GONE  STATE$`)
	term.tmux("resize-window", "-x", "60", "-y", "15")
	term.shows(`^   LOCK .* FAILED  STATE$`)

	caddy.stop(t)
	term.shows(`^ No answer for \S+: found no Caddy at `)
	startCaddy(t, 0, config)
	dial(t, addr)
	svc.next(t)
	term.shows(`^ ▸ printer +1/1 +0 `)
	if screen := term.screen(); strings.Contains(screen, "No answer") {
		t.Errorf("Caddy answers, and the screen still says that it does not:\n%s", screen)
	}

	term.types("q")
	term.shows(`^ready>\s*$`)
	term.types("echo exit code $?", "Enter")
	term.shows(`^exit code 0$`)
	if screen := term.screen(); strings.Contains(screen, "printer") {
		t.Errorf("top has left on the terminal:\n%s", screen)
	}
}

// Without colours nothing is lost, and the terminal gets none.
func TestTopWithoutColours(t *testing.T) {
	config, admin := withAdmin(t, lockConfig(freeAddr(t), "tcplock 1 {\nname printer\n}", freeAddr(t)))
	startCaddy(t, 0, config)
	colours := regexp.MustCompile(`\x1b\[[0-9;]*3[0-7]m`)
	for env, want := range map[string]bool{"": true, "NO_COLOR=1 ": false} {
		term := newTerminal(t, 80, 24, env+buildCaddy(t)+" tcplock top --interval 50ms --address "+admin.addr)
		term.shows(`^ ▸ printer `)
		term.types("p")
		term.shows(`^ ▸ printer .* paused for `)
		if screen := term.screen("-e"); colours.MatchString(screen) != want {
			t.Errorf("%scolours are to be there: %t, in\n%q", env, want, screen)
		}
		term.types("r", "q")
		term.shows(`^ready>\s*$`)
	}
}

// The line of a deploy script: it deploys when nobody holds, and resumes; when there is
// still a holder it does not.
func TestDeployScript(t *testing.T) {
	o := newOperated(t, "")
	script := fmt.Sprintf("%s tcplock drain printer --address %s --wait --timeout $0 && echo deployed && %[1]s tcplock resume printer --address %[2]s", buildCaddy(t), o.admin.addr)
	dial(t, o.addr)
	held := o.service.next(t)
	out := exits(t, start(t, nil, "sh", "-c", script, "100ms"), 4, "still 1 holder")
	if strings.Contains(out, "deployed") {
		t.Errorf("deployed with a holder:\n%s", out)
	}
	deploy := start(t, nil, "sh", "-c", script, "1h")
	deploy.prints(t, "1 of 1 slot held")
	o.service.leave(held)
	exits(t, deploy, 0, `(?s)printer: drained after .*\ndeployed\nprinter: open;`)
}

// restart starts the service's processes anew: at once where nobody holds, and else when
// the holder is gone.
func TestCommandRestart(t *testing.T) {
	buildCaddy(t)
	w := newWebPool(t, 2)
	config, admin := withAdmin(t, w.config("", ""))
	load(t, config)
	ready := func() {
		t.Helper()
		eventually(t, "both workers are ready", func() bool {
			return strings.Count(admin.exits(t, 0, "", "status", "default"), " ready ") == 2
		})
	}
	ready()
	admin.exits(t, 0, `^default: slot 2: (restarts now|is .*ing)\n$`, "restart", "--slot", "2")
	w.started(t, 2, 2)
	w.started(t, 1, 1)
	ready()
	client := dial(t, w.lock)
	inLine(t, "default", 1, 0)
	out := admin.exits(t, 0, "", "restart")
	if want := "restarts when connection 1 (" + client.LocalAddr().String() + ") has ended"; !strings.Contains(out, want) || strings.Count(out, "default: slot ") != 2 {
		t.Errorf("found no %q in:\n%s", want, out)
	}
	client.Close()
	eventually(t, "both have been restarted", func() bool { return len(w.pids(t, 1)) == 2 && len(w.pids(t, 2)) == 3 })
	admin.exits(t, 1, `slot: found 3, `, "restart", "--slot", "3")
}
