package reload_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A lock gets its first name, another one and none again while it has holders and waiters. It
// is always the same lock: the service never has more connections than slots, waiters keep
// their places, and new clients stand behind them.
func TestRename(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, caddytest.Named("", 2), svc.Addr)
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 2)
	l.Join(t, 5)
	for _, name := range []string{"first", "second", ""} {
		caddytest.Load(t, caddytest.LockConfig(addr, caddytest.Named(name, 2), svc.Addr))
		if l.Lock = name; name == "" {
			l.Lock = "default"
		}
		l.Admit(t)
		l.Talk(t)
		l.Join(t, 1)
		l.Leave(t, l.Next-1)
		if n := caddytest.Locks(); n != 1 {
			t.Fatalf("there are %d locks, expected the renamed one only", n)
		}
	}
	svc.NoneComes(t, "both slots are taken")
	l.Finish(t)
	if _, most, total := svc.Counts(); most != 2 || total != 8 {
		t.Errorf("the service had %d connections at most and %d in all, expected 2 and 8", most, total)
	}
}

// A reload renames two locks at once, and changes their slots. A second listen address makes no
// difference if both lead to the same lock. Each lock keeps its own clients.
func TestTwoLocksRenamed(t *testing.T) {
	one, two := caddytest.NewService(t, nil), caddytest.NewService(t, nil)
	addr, more, other := caddytest.FreeAddr(t), caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	config := func(a, b string, slots int) string {
		return caddytest.Global(fmt.Sprintf("layer4 {\n%s %s {\nroute {\n%s\n}\n}\n%s {\nroute {\nsubroute {\nroute {\n%s\n}\n}\n}\n}\n}",
			addr, more, caddytest.WayOut(caddytest.Named(a, slots), one.Addr), strings.Replace(other, "127.0.0.1:", "tcp/127.0.0.1:", 1), caddytest.WayOut(caddytest.Named(b, slots), two.Addr)))
	}
	caddytest.Load(t, config("a", "b", 1))
	caddytest.LeakCheck(t)
	lines := []*caddytest.Line{caddytest.NewLine(one, addr, 1), caddytest.NewLine(two, other, 1)}
	lines[0].Lock, lines[1].Lock = "a", "b"
	for _, l := range lines {
		l.Join(t, 4)
	}
	caddytest.Load(t, config("c", "d", 2))
	lines[0].Lock, lines[1].Lock = "c", "d"
	for _, l := range lines {
		l.Limit = 2
		l.Admit(t)
		l.Join(t, 1)
		l.Talk(t)
		l.Finish(t)
	}
	if n := caddytest.Locks(); n != 2 {
		t.Errorf("there are %d locks, expected 2", n)
	}
}

// A renamed lock keeps its pause, its counts, its last waits and its events, under the new name
// only. The metrics' totals go on too.
func TestRenamedLockIsTheSame(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, caddytest.Named("old", 1), svc.Addr))
	caddytest.Load(t, config)
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 1)
	l.Lock = "old"
	l.Join(t, 3)
	l.Leave(t, 0)
	l.Leave(t, 1)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/old/pause")
	before := a.Lock(t, "old")
	caddytest.Load(t, a.In(caddytest.LockConfig(addr, caddytest.Named("new", 1), svc.Addr)))
	after := a.Lock(t, "new")
	if after.Name != "new" || after.Held != 1 || after.Paused == nil || !after.Paused.Since.Equal(before.Paused.Since) ||
		after.Connections["served"] != 2 || after.Waits.Count != before.Waits.Count || after.Holders[0].ID != 3 {
		t.Errorf("found %+v, expected the lock as it was: %+v", after, before)
	}
	if e := after.Events[0]; e.Event != "renamed" || e.Reason != "before: old" {
		t.Errorf("found the event %+v, expected that the lock was renamed", e)
	}
	a.Refuses(t, "GET", "/tcplock/locks/old", 404, `found no lock "old", expected one of: new`)
	_, metrics := a.Ask(t, "GET", "/metrics")
	for _, want := range []string{
		`caddy_tcplock_connections_total{lock="new",outcome="served"} 2`,
		`caddy_tcplock_wait_seconds_count{lock="new"} 3`,
		`caddy_tcplock_hold_seconds_count{lock="new"} 2`,
		`caddy_tcplock_events_dropped_total{lock="new"} 0`,
		`caddy_tcplock_paused{lock="new"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("found no metric %s", want)
		}
	}
	if strings.Contains(metrics, `lock="old"`) {
		t.Error("found metrics of the old name, expected none")
	}
	l.Lock = "new"
	caddytest.DialSend(t, addr, caddytest.Number(3))
	caddytest.InLine(t, "new", 1, 1)
	l.Svc.Leave(l.Served[2])
	caddytest.InLine(t, "new", 0, 1)
	svc.NoneComes(t, "the lock is paused")
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/new/resume")
	svc.Leave(svc.Gets(t, 3))
	caddytest.InLine(t, "new", 0, 0)
}

// failingLoader makes a config fail after Caddy has said that it has started.
type failingLoader struct{}

func (failingLoader) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.config_loaders.tcplock_test_fails", New: func() caddy.Module { return new(failingLoader) }}
}

func (failingLoader) LoadConfig(caddy.Context) ([]byte, error) {
	return nil, errors.New("failed on purpose")
}

func init() { caddy.RegisterModule(failingLoader{}) }

// A config renames the lock and fails, also after it has started. That changes nothing: the
// lock has its name, its holders and its line. A later config can still rename it.
func TestRenameByFailingConfig(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, caddytest.Named("old", 1), svc.Addr) // (Caddy leaves the listeners of such a config open.)
	l := caddytest.NewLine(svc, addr, 1)
	l.Lock = "old"
	l.Join(t, 3)
	var config map[string]any
	if err := json.Unmarshal(caddytest.Adapt(t, caddytest.LockConfig(addr, caddytest.Named("new", 1), svc.Addr)), &config); err != nil {
		t.Fatal(err)
	}
	config["admin"].(map[string]any)["config"] = map[string]any{"persist": false, "load": map[string]string{"module": "tcplock_test_fails"}}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := caddytest.TryLoadJSON(t, raw); err == nil || !strings.Contains(err.Error(), "failed on purpose") {
			t.Fatalf("found %v, expected the loader's error", err)
		}
		if n := caddytest.Locks(); n != 1 {
			t.Fatalf("there are %d locks, expected 1", n)
		}
		l.Admit(t)
		l.Talk(t)
		l.Join(t, 1) // it may come by such a listener
	}
	l.Leave(t, 0)
	caddytest.Load(t, caddytest.LockConfig(addr, caddytest.Named("new", 1), svc.Addr))
	l.Lock = "new"
	l.Admit(t)
	l.Join(t, 1)
	l.Finish(t)
}

// A reload removes the lock while it has a holder, and another brings its address back with
// another name. It is the old lock.
func TestLockRemovedAndBroughtBackRenamed(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, caddytest.Named("old", 1), svc.Addr)
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 1)
	l.Lock = "old"
	l.Join(t, 2)
	caddytest.Load(t, caddytest.LockConfig(caddytest.FreeAddr(t), "", svc.Addr))
	l.Admit(t)
	caddytest.Load(t, caddytest.LockConfig(addr, caddytest.Named("new", 1), svc.Addr))
	l.Lock = "new"
	l.Join(t, 2)
	svc.NoneComes(t, "the old holder counts")
	l.Finish(t)
}

// A reload removes one of two locks at an address while it has a holder. The next reload
// renames the lock that is left: it is clear which lock that is.
func TestRenameBesideRemovedLock(t *testing.T) {
	svc, other := caddytest.NewService(t, nil), caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	config := func(name, more string) string {
		return caddytest.Global(fmt.Sprintf("layer4 {\n%s {\n%s\n@number regexp [0-9]+ 3\nroute @number {\n%s\nproxy %s\n}\n}\n}", addr, more, caddytest.Named(name, 1), svc.Addr))
	}
	caddytest.Load(t, config("old", fmt.Sprintf("@letters regexp [a-z]+ 3\nroute @letters {\n%s\nproxy %s\n}", caddytest.Named("removed", 1), other.Addr)))
	caddytest.LeakCheck(t)
	caddytest.DialSend(t, addr, "abc")
	conn := other.Next(t)
	caddytest.Expect(t, conn, "abc")
	l := caddytest.NewLine(svc, addr, 1)
	l.Lock = "old"
	l.Join(t, 2)
	caddytest.Load(t, config("old", ""))
	caddytest.Load(t, config("new", ""))
	l.Lock = "new"
	l.Join(t, 2)
	svc.NoneComes(t, "the old holder counts")
	l.Finish(t)
	caddytest.InLine(t, "removed", 1, 0)
	other.Leave(conn)
}

// A lock in a listener wrapper of an HTTP server is renamed as any other. (It listens on a unix
// socket, which Caddy hands on from config to config. An HTTP server closes a TCP listener some
// time after the reload, and the system resets the connections that are still in it.)
func TestRenameInListenerWrapper(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	socket := caddytest.Socket(t)
	config := func(name string) string {
		routes := fmt.Sprintf("@number regexp [0-9]+ 3\nroute @number {\n%s\nproxy %s\n}", caddytest.Named(name, 1), svc.Addr)
		return caddytest.Global("storage_clean_interval off\nservers {\nlistener_wrappers {\nlayer4 {\n"+routes+"\n}\n}\n}") +
			"http://localhost {\nbind unix/" + socket + "\nrespond hello\n}\n"
	}
	caddytest.Load(t, config("old"))
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, "", 1)
	l.Come = func(t *testing.T, i int) net.Conn {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		caddytest.Send(t, conn, caddytest.Number(i))
		return conn
	}
	l.Lock = "old"
	l.Join(t, 3)
	caddytest.Load(t, config("new"))
	l.Lock = "new"
	l.Join(t, 2)
	svc.NoneComes(t, "the old holder counts")
	l.Finish(t)
}

// If it is not clear which lock gets which name, the locks are not renamed. If the old one
// still has connections, Caddy's log has a warning with the address and both names. If it is
// clear, or the old lock is empty, there is no warning.
func TestUnclearRename(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const warning = "listen address leads to another lock now"
	for _, c := range []struct {
		name          string
		before, after [2]string // names of the locks at two addresses
		locks         int       // how many there are after the reload
		warnings      [][2]string
	}{
		{"renamed", [2]string{"a", "b"}, [2]string{"c", "b"}, 2, nil},
		{"both renamed", [2]string{"a", "b"}, [2]string{"c", "d"}, 2, nil},
		{"one becomes two", [2]string{"a", "a"}, [2]string{"b", "c"}, 3, [][2]string{{"a", "b"}, {"a", "c"}}},
		{"two become one", [2]string{"a", "b"}, [2]string{"c", "c"}, 3, [][2]string{{"a", "c"}, {"b", "c"}}},
		{"swapped", [2]string{"a", "b"}, [2]string{"b", "a"}, 2, [][2]string{{"a", "b"}, {"b", "a"}}},
		{"one moves", [2]string{"a", "b"}, [2]string{"b", "c"}, 3, [][2]string{{"a", "b"}, {"b", "c"}}},
	} {
		for _, busy := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, busy %v", c.name, busy), func(t *testing.T) {
				svc := caddytest.NewService(t, nil)
				file := filepath.Join(t.TempDir(), "log")
				addrs := []string{caddytest.FreeAddr(t), caddytest.FreeAddr(t)}
				config := func(names [2]string) string {
					servers := fmt.Sprintf("log {\noutput file %s\nlevel WARN\n}\nlayer4 {\n", file)
					for i, name := range names {
						servers += fmt.Sprintf("%s {\nroute {\n%s\nproxy %s\n}\n}\n", addrs[i], caddytest.Named(name, 2), svc.Addr)
					}
					return caddytest.Global(servers + "}")
				}
				caddytest.Load(t, config(c.before))
				caddytest.LeakCheck(t)
				if busy {
					for i, addr := range addrs {
						caddytest.DialSend(t, addr, caddytest.Number(i))
						svc.Gets(t, i)
					}
				}
				caddytest.Load(t, config(c.after))
				text, err := os.ReadFile(file)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				if !busy {
					c.warnings = nil
					caddytest.Eventually(t, "the old locks are gone", func() bool { return caddytest.Locks() == len(distinct(c.after)) })
				} else if n := caddytest.Locks(); n != c.locks {
					t.Errorf("found %d locks, expected %d", n, c.locks)
				}
				for i, w := range c.warnings {
					if want := fmt.Sprintf(`"address":%q,"lock":%q,"former_lock":%q`, addrs[i], w[1], w[0]); !strings.Contains(string(text), want) {
						t.Errorf("found no warning with %s in %s", want, text)
					}
				}
				if n := strings.Count(string(text), warning); n != len(c.warnings) {
					t.Errorf("found %d warnings, expected %d: %s", n, len(c.warnings), text)
				}
			})
		}
	}
}

func distinct(names [2]string) map[string]bool {
	return map[string]bool{names[0]: true, names[1]: true}
}

// What runs for a connection sees the name that the lock has at that time.
func TestRenamedLockInPlaceholders(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "notes")
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	config := func(name string) string {
		return caddytest.LockConfig(addr, fmt.Sprintf("tcplock {\nname %s\nlinger 0\non activate exec sh -c \"echo $TCPLOCK_NAME:{l4.tcplock.name} >> '%s'\"\n}", name, notes), svc.Addr)
	}
	caddytest.Load(t, config("old"))
	caddytest.LeakCheck(t)
	l := caddytest.NewLine(svc, addr, 1)
	l.Lock = "old"
	l.Join(t, 2)
	caddytest.Load(t, config("new"))
	l.Lock = "new"
	l.Leave(t, 0)
	l.Finish(t)
	if got := strings.Join(caddytest.Noted(t, notes), " "); got != "old:old new:new" {
		t.Errorf("found %s, expected old:old new:new", got)
	}
}
