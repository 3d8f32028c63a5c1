package operators_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The commands as an operator or a script runs them: the program itself with its output and
// exit code, and a real Caddy.

// operated is a Caddy with one lock, printer, and a service that the test serves by hand.
type operated struct {
	caddytest.Admin
	service *caddytest.Service
	addr    string // of the lock
	options string
}

// newOperated starts one. options are those of the lock.
func newOperated(t *testing.T, options string) *operated {
	t.Helper()
	caddytest.Caddy(t) // makes the program now: later, that time would count as time in line
	o := &operated{service: caddytest.NewService(t, nil), addr: caddytest.FreeAddr(t), options: options}
	caddyfile, admin := caddytest.WithAdmin(t, o.config())
	o.Admin = admin
	caddytest.Load(t, caddyfile)
	return o
}

func (o *operated) config() string {
	return caddytest.LockConfig(o.addr, "tcplock 1 {\nname printer\n"+o.options+"\n}", o.service.Addr)
}

// status shows the holders and the waiters, for all locks and for one, and as JSON.
func TestCommandStatus(t *testing.T) {
	o := newOperated(t, "max_waiting 5")
	holder := caddytest.Dial(t, o.addr)
	caddytest.Send(t, holder, "hello")
	caddytest.Expect(t, o.service.Next(t), "hello")
	waiter := caddytest.Dial(t, o.addr)
	caddytest.InLine(t, "printer", 1, 1)

	const line = `(?m)^printer +1/1 +1/5 .* open$`
	o.Exits(t, 0, line, "status")
	out := o.Exits(t, 0, line, "status", "printer")
	for _, want := range []string{`(?m)^ +1 +1 +` + holder.LocalAddr().String() + ` .* 5 B +0 B +connected$`, `(?m)^ +1 +2 +` + waiter.LocalAddr().String() + ` `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("found no %q in:\n%s", want, out)
		}
	}
	var one status.Lock
	if err := json.Unmarshal([]byte(o.Exits(t, 0, "", "status", "printer", "--json")), &one); err != nil || one.Name != "printer" || one.Held != 1 {
		t.Errorf("status printer --json: %v, %+v", err, one)
	}
	var all struct{ Locks []status.Lock }
	if err := json.Unmarshal([]byte(o.Exits(t, 0, "", "status", "--json")), &all); err != nil || len(all.Locks) != 1 || all.Locks[0].Waiting != 1 {
		t.Errorf("status --json: %v, %+v", err, all)
	}
	o.Exits(t, 1, `^Error: found no lock "plotter", expected one of: printer\n$`, "status", "plotter")
}

// pause admits no connection until resume, or until its time is over.
func TestCommandPause(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	o := newOperated(t, "")
	o.Exits(t, 0, `^printer: paused; 0 of 1 slot held, 0 waiting\n$`, "pause")
	caddytest.Dial(t, o.addr)
	caddytest.InLine(t, "printer", 0, 1)
	o.Exits(t, 0, `^printer: paused.* \((1h00m|59m\d\ds) left\); 0 of 1 slot held, 1 waiting\n$`, "pause", "printer", "--for", "1h")
	o.service.NoneComes(t, "the lock is paused")
	o.Exits(t, 0, `^printer: open; `, "resume", "printer")
	o.service.Leave(o.service.Next(t))
	o.Exits(t, 0, `left\)`, "pause", "--for", "300ms")
	caddytest.Dial(t, o.addr)
	o.service.Leave(o.service.Next(t))
	o.Exits(t, 1, `^Error: found no lock "plotter", expected one of: printer\n$`, "pause", "plotter")
}

// drain --wait ends when the last holder has ended. Each way to end has its exit code.
func TestCommandDrain(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	o := newOperated(t, "")
	caddytest.Dial(t, o.addr)
	held := o.service.Next(t)
	o.Exits(t, 0, `^printer: paused; 1 of 1 slot held`, "drain")
	o.Exits(t, 4, `(?m)^Error: printer: still 1 holder after 100ms; it stays paused$`, "drain", "--wait", "--timeout", "100ms")

	waits := o.Command(t, "drain", "printer", "--wait")
	waits.Prints(t, "1 of 1 slot held")
	o.Exits(t, 0, "", "resume")
	caddytest.Exits(t, waits, 5, `(?m)^Error: printer: it was resumed, `)

	waits = o.Command(t, "drain", "printer", "--wait", "--timeout", "1h")
	waits.Prints(t, "1 of 1 slot held")
	caddytest.Load(t, o.In(strings.Replace(o.config(), "name printer", "name printer\nwait_timeout 1h", 1))) // the config changes meanwhile
	caddytest.Dial(t, o.addr)
	caddytest.InLine(t, "printer", 1, 1)
	o.service.Leave(held)
	caddytest.Exits(t, waits, 0, `(?m)^printer: drained after \S+$`)
	o.service.NoneComes(t, "the lock is paused")
	o.Exits(t, 0, `^printer: open;`, "resume")
	o.service.Leave(o.service.Next(t))
}

// run runs a moment's hooks when there is no holder, and prints the result.
func TestCommandRun(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	ran := filepath.Join(t.TempDir(), "ran")
	o := newOperated(t, fmt.Sprintf("on activate {\nevery 100\nexec touch %s\n}\non release {\nexec false\n}", ran))
	o.Exits(t, 0, `^printer: ran 1 hook of activate\n$`, "run", "activate")
	if _, err := os.Stat(ran); err != nil {
		t.Errorf("the hook has not run: %v", err)
	}
	o.Exits(t, 1, `^Error: Caddy answered 500: release hook: `, "run", "printer", "release")
	o.Exits(t, 1, `^Error: Caddy answered 400: moment: found "idle", `, "run", "idle")
	caddytest.Dial(t, o.addr)
	o.service.Next(t)
	o.Exits(t, 4, `^Error: printer: there was still a holder after 100ms, no hook has run\n$`, "run", "activate", "--wait", "100ms")
}

// Without Caddy each command fails, and says why.
func TestCommandWithoutCaddy(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	nowhere := caddytest.Admin{Addr: caddytest.FreeAddr(t)}
	for _, args := range [][]string{{"status"}, {"pause"}, {"resume"}, {"drain", "--wait"}, {"kick", "1"}, {"run", "idle"}, {"restart"}, {"top", "--once"}} {
		nowhere.Exits(t, 1, `^Error: found no Caddy at `+nowhere.Addr+`: it is not running, or its admin API is off or elsewhere \(see --address and --config\)\n$`, args...)
	}
}

// The address may come from a config file. Without one it is Caddy's default, which CADDY_ADMIN
// sets.
func TestCommandAddress(t *testing.T) {
	o := newOperated(t, "")
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(o.In(o.config())), 0o600); err != nil {
		t.Fatal(err)
	}
	caddytest.Exits(t, caddytest.StartCommand(t, "status", "--config", file), 0, `(?m)^printer `)
	caddytest.Exits(t, caddytest.Start(t, []string{"CADDY_ADMIN=" + o.Admin.Addr}, caddytest.Caddy(t), "tcplock", "status"), 0, `(?m)^printer `)
}

// The admin API may be on a unix socket.
func TestCommandUnixSocket(t *testing.T) {
	caddytest.Slow(t)
	socket := caddytest.Admin{Addr: "unix/" + filepath.Join(t.TempDir(), "admin.sock")}
	caddytest.Load(t, socket.In(caddytest.LockConfig(caddytest.FreeAddr(t), "tcplock 1 {\nname printer\n}", caddytest.FreeAddr(t))))
	socket.Exits(t, 0, `(?m)^printer `, "status")
	caddytest.Admin{Addr: socket.Addr + "|0200"}.Exits(t, 0, `(?m)^printer `, "status")
}

// If its output is not a terminal, top prints what status prints, once, or at each interval
// while Caddy comes and goes.
func TestCommandTopPlain(t *testing.T) {
	o := newOperated(t, "")
	o.Exits(t, 0, `^LOCK .*\nprinter .* open\n$`, "top", "--once")
	top := o.Command(t, "top", "--interval", "50ms")
	top.Prints(t, "printer")
	conn, err := net.Dial("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.service.Next(t)
	caddytest.Eventually(t, "top shows the holder", func() bool {
		return regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nLOCK .*\nprinter +1/1 .*\n\n`).MatchString(top.Out.String())
	})
	begin := time.Now()
	top.Interrupt()
	if _, err := top.Result(t); err == nil || time.Since(begin) > caddytest.Patience {
		t.Errorf("after an interrupt: %v after %s", err, time.Since(begin))
	}
}
