package tcplock_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// named is a lock's block with a name; without a name it is the default lock.
func named(name string, slots int) string {
	if name == "" {
		return fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots)
	}
	return fmt.Sprintf("tcplock %d {\nname %s\nlinger 0\n}", slots, name)
}

// A lock gets its first name, another one and none again while it has holders and waiters.
// It is the same lock all the time: holders count, so the service never has more connections
// than slots, waiters keep their places, and new clients stand behind them.
func TestRename(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, named("", 2), svc.addr)
	leakCheck(t)
	l := newLine(svc, addr, 2)
	l.join(t, 5)
	for _, name := range []string{"first", "second", ""} {
		load(t, lockConfig(addr, named(name, 2), svc.addr))
		if l.lock = name; name == "" {
			l.lock = "default"
		}
		l.admit(t)
		l.talk(t)
		l.join(t, 1)
		l.leave(t, l.next-1)
		if n := tcplock.Locks(); n != 1 {
			t.Fatalf("there are %d locks, expected the renamed one only", n)
		}
	}
	svc.nobody(t, "both slots are taken")
	l.finish(t)
	if _, most, total := svc.counts(); most != 2 || total != 8 {
		t.Errorf("the service had %d connections at most and %d in all, expected 2 and 8", most, total)
	}
}

// A reload renames two locks at once, and changes their slots. A second listen address does
// not matter where it says the same. Each lock keeps its own clients.
func TestTwoLocksRenamed(t *testing.T) {
	one, two := newService(t, nil), newService(t, nil)
	addr, more, other := freeAddr(t), freeAddr(t), freeAddr(t)
	config := func(a, b string, slots int) string {
		return global(fmt.Sprintf("layer4 {\n%s %s {\nroute {\n%s\nproxy %s\n}\n}\n%s {\nroute {\nsubroute {\nroute {\n%s\nproxy %s\n}\n}\n}\n}\n}",
			addr, more, named(a, slots), one.addr, strings.Replace(other, "127.0.0.1:", "tcp/127.0.0.1:", 1), named(b, slots), two.addr))
	}
	load(t, config("a", "b", 1))
	leakCheck(t)
	lines := []*line{newLine(one, addr, 1), newLine(two, other, 1)}
	lines[0].lock, lines[1].lock = "a", "b"
	for _, l := range lines {
		l.join(t, 4)
	}
	load(t, config("c", "d", 2))
	lines[0].lock, lines[1].lock = "c", "d"
	for _, l := range lines {
		l.limit = 2
		l.admit(t)
		l.join(t, 1)
		l.talk(t)
		l.finish(t)
	}
	if n := tcplock.Locks(); n != 2 {
		t.Errorf("there are %d locks, expected 2", n)
	}
}

// A lock keeps its pause, its counts, its last waits and its events when it is renamed, and
// all of that under the new name only. The metrics' totals go on as well.
func TestRenamedLockIsTheSame(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, named("old", 1), svc.addr))
	load(t, config)
	leakCheck(t)
	l := newLine(svc, addr, 1)
	l.lock = "old"
	l.join(t, 3)
	l.leave(t, 0)
	l.leave(t, 1)
	asks[status.Lock](t, a, "POST", "/tcplock/locks/old/pause")
	before := a.lock(t, "old")
	load(t, a.in(lockConfig(addr, named("new", 1), svc.addr)))
	after := a.lock(t, "new")
	if after.Name != "new" || after.Held != 1 || after.Paused == nil || !after.Paused.Since.Equal(before.Paused.Since) ||
		after.Connections["served"] != 2 || after.Waits.Count != before.Waits.Count || after.Holders[0].ID != 3 {
		t.Errorf("found %+v, expected the lock as it was: %+v", after, before)
	}
	if e := after.Events[0]; e.Event != "renamed" || e.Reason != "before: old" {
		t.Errorf("found the event %+v, expected that the lock was renamed", e)
	}
	a.refuses(t, "GET", "/tcplock/locks/old", 404, `found no lock "old", expected one of: new`)
	_, metrics := a.ask(t, "GET", "/metrics")
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
	l.lock = "new"
	plainly(t, addr, number(3))
	inLine(t, "new", 1, 1)
	l.svc.leave(l.served[2])
	inLine(t, "new", 0, 1)
	svc.nobody(t, "the lock is paused")
	asks[status.Lock](t, a, "POST", "/tcplock/locks/new/resume")
	svc.leave(svc.gets(t, 3))
	inLine(t, "new", 0, 0)
}

// failingLoader makes a config fail after Caddy has told that it has started.
type failingLoader struct{}

func (failingLoader) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.config_loaders.tcplock_test_fails", New: func() caddy.Module { return new(failingLoader) }}
}

func (failingLoader) LoadConfig(caddy.Context) ([]byte, error) {
	return nil, errors.New("failed on purpose")
}

func init() { caddy.RegisterModule(failingLoader{}) }

// A config that renames the lock and fails, even after it has started, changes nothing: the
// lock has its name, its holders and its line. A later config renames it all the same.
func TestRenameByFailingConfig(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, named("old", 1), svc.addr) // (Caddy leaves the listeners of such a config open.)
	l := newLine(svc, addr, 1)
	l.lock = "old"
	l.join(t, 3)
	var config map[string]any
	if err := json.Unmarshal(adapt(t, lockConfig(addr, named("new", 1), svc.addr)), &config); err != nil {
		t.Fatal(err)
	}
	config["admin"].(map[string]any)["config"] = map[string]any{"persist": false, "load": map[string]string{"module": "tcplock_test_fails"}}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := tryLoadJSON(t, raw); err == nil || !strings.Contains(err.Error(), "failed on purpose") {
			t.Fatalf("found %v, expected the loader's error", err)
		}
		if n := tcplock.Locks(); n != 1 {
			t.Fatalf("there are %d locks, expected 1", n)
		}
		l.admit(t)
		l.talk(t)
		l.join(t, 1) // it may come by such a listener
	}
	l.leave(t, 0)
	load(t, lockConfig(addr, named("new", 1), svc.addr))
	l.lock = "new"
	l.admit(t)
	l.join(t, 1)
	l.finish(t)
}

// The lock is taken out of the config while it has a holder, and its address comes back with
// another name: it is the old lock.
func TestLockRemovedAndBroughtBackRenamed(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, named("old", 1), svc.addr)
	leakCheck(t)
	l := newLine(svc, addr, 1)
	l.lock = "old"
	l.join(t, 2)
	load(t, lockConfig(freeAddr(t), "", svc.addr))
	l.admit(t)
	load(t, lockConfig(addr, named("new", 1), svc.addr))
	l.lock = "new"
	l.join(t, 2)
	svc.nobody(t, "the old holder counts")
	l.finish(t)
}

// A reload takes one of two locks at an address away while it has a holder. The next one
// renames the lock that is left: it is clear which one that is.
func TestRenameBesideRemovedLock(t *testing.T) {
	svc, other := newService(t, nil), newService(t, nil)
	addr := freeAddr(t)
	config := func(name, more string) string {
		return global(fmt.Sprintf("layer4 {\n%s {\n%s\n@number regexp [0-9]+ 3\nroute @number {\n%s\nproxy %s\n}\n}\n}", addr, more, named(name, 1), svc.addr))
	}
	load(t, config("old", fmt.Sprintf("@letters regexp [a-z]+ 3\nroute @letters {\n%s\nproxy %s\n}", named("removed", 1), other.addr)))
	leakCheck(t)
	plainly(t, addr, "abc")
	conn := other.next(t)
	expect(t, conn, "abc")
	l := newLine(svc, addr, 1)
	l.lock = "old"
	l.join(t, 2)
	load(t, config("old", ""))
	load(t, config("new", ""))
	l.lock = "new"
	l.join(t, 2)
	svc.nobody(t, "the old holder counts")
	l.finish(t)
	inLine(t, "removed", 1, 0)
	other.leave(conn)
}

// A lock in a listener wrapper of an HTTP server is renamed as any other. (It listens on a unix
// socket, which Caddy hands on from config to config. An HTTP server closes a TCP listener
// some time after the reload, and the system resets a client that comes by it.)
func TestRenameInListenerWrapper(t *testing.T) {
	svc := newService(t, nil)
	dir, err := os.MkdirTemp("", "tcplock") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	config := func(name string) string {
		routes := fmt.Sprintf("@number regexp [0-9]+ 3\nroute @number {\n%s\nproxy %s\n}", named(name, 1), svc.addr)
		return global("storage_clean_interval off\nservers {\nlistener_wrappers {\nlayer4 {\n"+routes+"\n}\n}\n}") +
			"http://localhost {\nbind unix/" + socket + "\nrespond hello\n}\n"
	}
	load(t, config("old"))
	leakCheck(t)
	l := newLine(svc, "", 1)
	l.come = func(t *testing.T, i int) net.Conn {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		send(t, conn, number(i))
		return conn
	}
	l.lock = "old"
	l.join(t, 3)
	load(t, config("new"))
	l.lock = "new"
	l.join(t, 2)
	svc.nobody(t, "the old holder counts")
	l.finish(t)
}

// Where it is not clear which lock gets which name, the locks are not renamed. If the old
// one has connections still, Caddy's log has a warning with the address and both names. Where
// it is clear, and where the old lock is empty, there is no warning.
func TestUnclearRename(t *testing.T) {
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
				svc := newService(t, nil)
				file := filepath.Join(t.TempDir(), "log")
				addrs := []string{freeAddr(t), freeAddr(t)}
				config := func(names [2]string) string {
					servers := fmt.Sprintf("log {\noutput file %s\nlevel WARN\n}\nlayer4 {\n", file)
					for i, name := range names {
						servers += fmt.Sprintf("%s {\nroute {\n%s\nproxy %s\n}\n}\n", addrs[i], named(name, 2), svc.addr)
					}
					return global(servers + "}")
				}
				load(t, config(c.before))
				leakCheck(t)
				if busy {
					for i, addr := range addrs {
						plainly(t, addr, number(i))
						svc.gets(t, i)
					}
				}
				load(t, config(c.after))
				text, err := os.ReadFile(file)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				if !busy {
					c.warnings = nil
					eventually(t, "the old locks are gone", func() bool { return tcplock.Locks() == len(distinct(c.after)) })
				} else if n := tcplock.Locks(); n != c.locks {
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

// What runs for a connection sees the name that the lock has by then.
func TestRenamedLockInPlaceholders(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "notes")
	svc := newService(t, nil)
	addr := freeAddr(t)
	config := func(name string) string {
		return lockConfig(addr, fmt.Sprintf("tcplock {\nname %s\nlinger 0\non activate exec sh -c \"echo $TCPLOCK_NAME:{l4.tcplock.name} >> '%s'\"\n}", name, notes), svc.addr)
	}
	load(t, config("old"))
	leakCheck(t)
	l := newLine(svc, addr, 1)
	l.lock = "old"
	l.join(t, 2)
	load(t, config("new"))
	l.lock = "new"
	l.leave(t, 0)
	l.finish(t)
	if got := strings.Join(noted(t, notes), " "); got != "old:old new:new" {
		t.Errorf("found %s, expected old:old new:new", got)
	}
}
