package tcplock_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The commands against the admin API, as an operator or a script runs them: the program
// itself, with its output and its exit code, and a real Caddy.

// operated is a Caddy with one lock, printer, in front of a service that is served by hand.
type operated struct {
	admin
	service *service
	addr    string // of the lock
	options string
}

// newOperated starts it. options are those of the lock.
func newOperated(t *testing.T, options string) *operated {
	t.Helper()
	buildCaddy(t) // takes its time, which would be somebody's in line
	o := &operated{service: newService(t, nil), addr: freeAddr(t), options: options}
	caddyfile, admin := withAdmin(t, o.config())
	o.admin = admin
	load(t, caddyfile)
	return o
}

func (o *operated) config() string {
	return lockConfig(o.addr, "tcplock 1 {\nname printer\n"+o.options+"\n}", o.service.addr)
}

// command starts "caddy tcplock" with these arguments against it.
func (a admin) command(t *testing.T, args ...string) *program {
	t.Helper()
	return startCommand(t, append(args, "--address", a.addr)...)
}

// exits runs a command to its end and checks the exit code, and that it has printed this.
func (a admin) exits(t *testing.T, code int, want string, args ...string) (out string) {
	t.Helper()
	return exits(t, a.command(t, args...), code, want)
}

func exits(t *testing.T, p *program, code int, want string) (out string) {
	t.Helper()
	out, err := p.result(t)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("%v: found exit code %d, expected %d and %q in:\n%s", p.cmd.Args[1:], got, code, want, out)
	}
	return out
}

// status shows who holds and who waits, for all locks and for one, and as JSON.
func TestCommandStatus(t *testing.T) {
	o := newOperated(t, "max_waiting 5")
	holder := dial(t, o.addr)
	send(t, holder, "hello")
	expect(t, o.service.next(t), "hello")
	waiter := dial(t, o.addr)
	inLine(t, "printer", 1, 1)

	const line = `(?m)^printer +1/1 +1/5 .* open$`
	o.exits(t, 0, line, "status")
	out := o.exits(t, 0, line, "status", "printer")
	for _, want := range []string{`(?m)^ +1 +1 +` + holder.LocalAddr().String() + ` .* 5 B +0 B +connected$`, `(?m)^ +1 +2 +` + waiter.LocalAddr().String() + ` `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("found no %q in:\n%s", want, out)
		}
	}
	var one status.Lock
	if err := json.Unmarshal([]byte(o.exits(t, 0, "", "status", "printer", "--json")), &one); err != nil || one.Name != "printer" || one.Held != 1 {
		t.Errorf("status printer --json: %v, %+v", err, one)
	}
	var all struct{ Locks []status.Lock }
	if err := json.Unmarshal([]byte(o.exits(t, 0, "", "status", "--json")), &all); err != nil || len(all.Locks) != 1 || all.Locks[0].Waiting != 1 {
		t.Errorf("status --json: %v, %+v", err, all)
	}
	o.exits(t, 1, `^Error: found no lock "plotter", expected one of: printer\n$`, "status", "plotter")
}

// pause lets nobody through until resume does, or its time is over.
func TestCommandPause(t *testing.T) {
	o := newOperated(t, "")
	o.exits(t, 0, `^printer: paused; 0 of 1 slot held, 0 waiting\n$`, "pause")
	dial(t, o.addr)
	inLine(t, "printer", 0, 1)
	o.exits(t, 0, `^printer: paused.* \((1h00m|59m\d\ds) left\); 0 of 1 slot held, 1 waiting\n$`, "pause", "printer", "--for", "1h")
	o.service.nobody(t, "the lock is paused")
	o.exits(t, 0, `^printer: open; `, "resume", "printer")
	o.service.leave(o.service.next(t))
	o.exits(t, 0, `left\)`, "pause", "--for", "300ms")
	dial(t, o.addr)
	o.service.leave(o.service.next(t))
	o.exits(t, 1, `^Error: found no lock "plotter", expected one of: printer\n$`, "pause", "plotter")
}

// drain --wait is over when the last holder is gone, with an exit code for each end.
func TestCommandDrain(t *testing.T) {
	o := newOperated(t, "")
	dial(t, o.addr)
	held := o.service.next(t)
	o.exits(t, 0, `^printer: paused; 1 of 1 slot held`, "drain")
	o.exits(t, 4, `(?m)^Error: printer: still 1 holder after 100ms; it stays paused$`, "drain", "--wait", "--timeout", "100ms")

	waits := o.command(t, "drain", "printer", "--wait")
	waits.prints(t, "1 of 1 slot held")
	o.exits(t, 0, "", "resume")
	exits(t, waits, 5, `(?m)^Error: printer: somebody resumed it, `)

	waits = o.command(t, "drain", "printer", "--wait", "--timeout", "1h")
	waits.prints(t, "1 of 1 slot held")
	load(t, o.in(strings.Replace(o.config(), "name printer", "name printer\nwait_timeout 1h", 1))) // the config changes meanwhile
	dial(t, o.addr)
	inLine(t, "printer", 1, 1)
	o.service.leave(held)
	exits(t, waits, 0, `(?m)^printer: drained after \S+$`)
	o.service.nobody(t, "the lock is paused")
	o.exits(t, 0, `^printer: open;`, "resume")
	o.service.leave(o.service.next(t))
}

// A pause that ends by itself before the last holder has gone is somebody's resume.
func TestCommandDrainFor(t *testing.T) {
	o := newOperated(t, "")
	dial(t, o.addr)
	o.service.next(t)
	o.exits(t, 5, `(?m)^Error: printer: somebody resumed it, `, "drain", "--wait", "--for", "300ms")
}

// kick throws out a waiter and a holder.
func TestCommandKick(t *testing.T) {
	o := newOperated(t, "")
	holder := dial(t, o.addr)
	held := o.service.next(t)
	waiter := dial(t, o.addr)
	inLine(t, "printer", 1, 1)
	o.exits(t, 0, `^printer: kicked connection 2\n$`, "kick", "2")
	expectClosed(t, waiter)
	inLine(t, "printer", 1, 0)
	o.exits(t, 0, `^printer: kicked connection 1\n$`, "kick", "printer", "1")
	expectClosed(t, holder)
	o.service.leave(held)
	inLine(t, "printer", 0, 0)
	o.exits(t, 1, `^Error: printer: found no connection 99, expected one that holds a slot or waits\n$`, "kick", "99")
}

// run runs a moment's hooks when nobody holds, and tells how it went.
func TestCommandRun(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	o := newOperated(t, fmt.Sprintf("on activate {\nevery 100\nexec touch %s\n}\non release {\nexec false\n}", ran))
	o.exits(t, 0, `^printer: ran 1 hook of activate\n$`, "run", "activate")
	if _, err := os.Stat(ran); err != nil {
		t.Errorf("the hook has not run: %v", err)
	}
	o.exits(t, 1, `^Error: Caddy answered 500: release hook: `, "run", "printer", "release")
	o.exits(t, 1, `^Error: Caddy answered 400: moment: found "idle", `, "run", "idle")
	dial(t, o.addr)
	o.service.next(t)
	o.exits(t, 4, `^Error: printer: there were still holders after 100ms, no hook has run\n$`, "run", "activate", "--wait", "100ms")
}

// Without Caddy each command fails, and says plainly why.
func TestCommandWithoutCaddy(t *testing.T) {
	nowhere := admin{freeAddr(t)}
	for _, args := range [][]string{{"status"}, {"pause"}, {"resume"}, {"drain", "--wait"}, {"kick", "1"}, {"run", "idle"}, {"restart"}, {"top", "--once"}} {
		nowhere.exits(t, 1, `^Error: found no Caddy at `+nowhere.addr+`: it is not running, or its admin API is off or elsewhere \(see --address and --config\)\n$`, args...)
	}
}

// The address comes from a config file as well; without one, from Caddy's default, which
// CADDY_ADMIN sets.
func TestCommandAddress(t *testing.T) {
	o := newOperated(t, "")
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(o.in(o.config())), 0o600); err != nil {
		t.Fatal(err)
	}
	exits(t, startCommand(t, "status", "--config", file), 0, `(?m)^printer `)
	exits(t, start(t, []string{"CADDY_ADMIN=" + o.admin.addr}, buildCaddy(t), "tcplock", "status"), 0, `(?m)^printer `)
}

// The admin API may be on a unix socket.
func TestCommandUnixSocket(t *testing.T) {
	socket := admin{"unix/" + filepath.Join(t.TempDir(), "admin.sock")}
	load(t, socket.in(lockConfig(freeAddr(t), "tcplock 1 {\nname printer\n}", freeAddr(t))))
	socket.exits(t, 0, `(?m)^printer `, "status")
	admin{socket.addr + "|0200"}.exits(t, 0, `(?m)^printer `, "status")
}

// top prints what status prints where its output is no terminal: once, or again and again
// while Caddy comes and goes.
func TestCommandTopPlain(t *testing.T) {
	o := newOperated(t, "")
	o.exits(t, 0, `^LOCK .*\nprinter .* open\n$`, "top", "--once")
	top := o.command(t, "top", "--interval", "50ms")
	top.prints(t, "printer")
	conn, err := net.Dial("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.service.next(t)
	eventually(t, "top shows the holder", func() bool {
		return regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nLOCK .*\nprinter +1/1 .*\n\n`).MatchString(top.out.String())
	})
	begin := time.Now()
	top.interrupt()
	if _, err := top.result(t); err == nil || time.Since(begin) > patience {
		t.Errorf("after an interrupt: %v after %s", err, time.Since(begin))
	}
}
