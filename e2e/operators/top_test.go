//go:build unix

package operators_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// terminal is a terminal of tmux, in which a command runs.
type terminal struct {
	t      *testing.T
	socket string
}

// newTerminal opens a terminal of this size and types a command line into its shell.
func newTerminal(t *testing.T, width, height int, command string) *terminal {
	t.Helper()
	caddytest.FindProgram(t, "tmux")
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

// screen returns the text on the screen.
func (t *terminal) screen(options ...string) string {
	t.t.Helper()
	return t.tmux(append([]string{"capture-pane", "-p"}, options...)...)
}

// shows waits until the screen shows a text.
func (t *terminal) shows(want string) {
	t.t.Helper()
	pattern := regexp.MustCompile("(?m)" + want)
	for end := time.Now().Add(caddytest.Patience); !pattern.MatchString(t.screen()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.t.Fatalf("found no %q on the screen:\n%s", want, t.screen())
		}
	}
}

// In a real terminal, top shows holders and waiters, pauses, resumes and kicks. It follows the
// size of the terminal, survives a restart of Caddy, and leaves the terminal as it was.
func TestTopInTerminal(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	config, admin := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock 1 {\nname printer\n}", svc.Addr))
	caddy := caddytest.StartCaddy(t, 0, config)
	term := newTerminal(t, 80, 24, caddytest.Caddy(t)+" tcplock top --interval 50ms --address "+admin.Addr)
	term.shows(`^ ▸ printer +0/1 +0 `)

	holder := caddytest.Dial(t, addr)
	held := svc.Next(t)
	waiter := caddytest.Dial(t, addr)
	term.shows(`^ ▸ printer +1/1 +1 `)
	term.shows(`^ +1 +1 +` + holder.LocalAddr().String())
	term.shows(`^ +1 +2 +` + waiter.LocalAddr().String())

	term.types("p")
	term.shows(`^ printer: paused$`)
	term.shows(`^ ▸ printer .* paused for `)
	svc.Leave(held)
	caddytest.ExpectClosed(t, holder)
	term.shows(`^ ▸ printer +0/1 +1 `)
	svc.NoneComes(t, "the lock is paused")

	term.types("Tab", "k")
	term.shows(`^ Kick connection 2 \(` + waiter.LocalAddr().String() + `, waiting\)\? y/n$`)
	term.types("y")
	caddytest.ExpectClosed(t, waiter)
	term.types("r")
	term.shows(`^ printer: resumed$`)
	term.shows(`^ ▸ printer .* open$`)

	term.tmux("resize-window", "-x", "150", "-y", "40")
	term.shows(`^   LOCK .* P50 .* GONE  STATE$`)
	term.tmux("resize-window", "-x", "60", "-y", "15")
	term.shows(`^   LOCK .* FAILED  STATE$`)

	caddy.Stop(t)
	term.shows(`^ No answer for \S+: found no Caddy at `)
	caddytest.StartCaddy(t, 0, config)
	caddytest.Dial(t, addr)
	svc.Next(t)
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

// Without colours top shows the same, and sends no colour to the terminal.
func TestTopWithoutColours(t *testing.T) {
	config, admin := caddytest.WithAdmin(t, caddytest.LockConfig(caddytest.FreeAddr(t), "tcplock 1 {\nname printer\n}", caddytest.FreeAddr(t)))
	caddytest.StartCaddy(t, 0, config)
	colours := regexp.MustCompile(`\x1b\[[0-9;]*3[0-7]m`)
	for env, want := range map[string]bool{"": true, "NO_COLOR=1 ": false} {
		term := newTerminal(t, 80, 24, env+caddytest.Caddy(t)+" tcplock top --interval 50ms --address "+admin.Addr)
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
