package services_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A PostgreSQL with max_connections 10 takes exactly as many connections as the lock has slots.
// It refuses some of sixty clients that connect to it directly. Through the lock no transaction is
// lost: the sums in the database are right.
func TestPostgres(t *testing.T) {
	const slots, clients, each = 8, 60, 4
	db := startPostgres(t, slots)
	lock, _ := caddytest.LoadExample(t, "postgres", db.addr)
	bench := func(addr string, args ...string) (string, error) {
		// -C: a connection for each transaction. As many threads as clients: a client
		// that waits for a connection stops all clients of its thread.
		args = append([]string{"-n", "-C", "-c", fmt.Sprint(clients), "-j", fmt.Sprint(clients)}, args...)
		return db.client(t, addr, "pgbench", args...).Result(t)
	}
	slow := filepath.Join(t.TempDir(), "slow.sql")
	if err := os.WriteFile(slow, []byte("select pg_sleep(3);\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := regexp.MustCompile("too many clients already|remaining connection slots are reserved")
	if out, err := bench(db.addr, "-t", "1", "-f", slow); err == nil || !refused.MatchString(out) {
		t.Fatalf("without the lock: error %v, expected refused connections; so this proves nothing\n%s", err, out)
	}

	if out, err := db.client(t, db.addr, "pgbench", "-i", "-q").Result(t); err != nil {
		t.Fatalf("pgbench -i: %v\n%s", err, out)
	}
	before := len(db.server.Out.String())
	out, err := bench(lock, "-t", fmt.Sprint(each))
	if want := fmt.Sprintf("processed: %[1]d/%[1]d\n", clients*each); err != nil || !strings.Contains(out, want) {
		t.Errorf("through the lock: error %v, expected %s%s", err, want, out) // which has no failed ones
	}
	balance := db.query(t, "app", `select count(*),
		sum(delta) - (select sum(abalance) from pgbench_accounts),
		sum(delta) - (select sum(tbalance) from pgbench_tellers),
		sum(delta) - (select sum(bbalance) from pgbench_branches) from pgbench_history`)
	if want := fmt.Sprint(clients*each, "|0|0|0"); balance != want {
		t.Errorf("transactions in the database, and what accounts, tellers and branches lack: found %s, expected %s", balance, want)
	}
	caddytest.InLine(t, "postgres", 0, 0)
	if most, total := backends(db.server.Out.String()[before:]); most > slots || total < clients*each {
		t.Errorf("the database has seen %d clients, %d at once, expected %d or more, at most %d at once", total, most, clients*each, slots)
	}
	t.Run("cancel", func(t *testing.T) { cancelQueries(t, db, lock) })
}

// backends returns how many clients by TCP came to the server, by its own log, and how
// many there were at once.
func backends(log string) (most, total int) {
	now := 0
	for _, event := range regexp.MustCompile(`(connection received|disconnection): .*host=127\.0\.0\.1`).FindAllStringSubmatch(log, -1) {
		if event[1] == "disconnection" {
			now--
			continue
		}
		now++
		total++
		most = max(most, now)
	}
	return most, total
}

// Ctrl-C in psql cancels its query, although all slots are taken and other clients wait: the
// cancel request does not stand in line. A client that leaves the line is not served.
func cancelQueries(t *testing.T, db *postgres, lock string) {
	var sleepers []*caddytest.Program
	for i := range 8 {
		sleepers = append(sleepers, db.client(t, lock, "psql", "-c", "select pg_sleep(300)"))
		caddytest.InLine(t, "postgres", i+1, 0)
	}
	quitter := db.client(t, lock, "psql", "-c", "insert into history values (-1)")
	caddytest.InLine(t, "postgres", 8, 1)
	waiter := db.client(t, lock, "psql", "-Atc", "select 'served'")
	caddytest.InLine(t, "postgres", 8, 2)
	quitter.Stop(t)
	caddytest.InLine(t, "postgres", 8, 1)
	caddytest.Eventually(t, "eight queries run", func() bool {
		return db.query(t, "app", "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(300)'") == "8"
	})

	for i, sleeper := range sleepers {
		sleeper.Interrupt()
		out, err := sleeper.Result(t)
		if err == nil || !strings.Contains(out, "canceling statement due to user request") {
			t.Fatalf("psql %d: found %v, expected its query to be cancelled\n%s", i, err, out)
		}
	}
	if out, err := waiter.Result(t); err != nil || out != "served\n" {
		t.Errorf("psql in line: found %q, error %v, expected it to be served", out, err)
	}
	caddytest.InLine(t, "postgres", 0, 0)
	if n := db.query(t, "app", "select count(*) from history where client = -1"); n != "0" {
		t.Error("a client that had given up in line was served")
	}
}

// postgres is a PostgreSQL that the test has started.
type postgres struct {
	bin  string
	addr string // on loopback
	dir  string // of its data and socket

	server *caddytest.Program
}

// startPostgres starts a PostgreSQL with this number of connections, and some for superusers.
func startPostgres(t *testing.T, connections int) *postgres {
	t.Helper()
	const reserved = 2
	db := &postgres{bin: postgresBin(t), addr: caddytest.FreeAddr(t)}
	// Not t.TempDir: only its owner may enter the folder above it.
	var err error
	if db.dir, err = os.MkdirTemp("", "tcplock-pg"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(db.dir) })
	command := db.asOwner(t)
	data := filepath.Join(db.dir, "data")
	initdb := append(command("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N", "--no-locale")
	if out, err := caddytest.Start(t, nil, initdb[0], initdb[1:]...).Result(t); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	host, port, _ := net.SplitHostPort(db.addr)
	server := append(command("postgres"), "-D", data, "-h", host, "-p", port, "-k", db.dir, "-F",
		"-c", fmt.Sprint("max_connections=", connections+reserved),
		"-c", fmt.Sprint("superuser_reserved_connections=", reserved),
		"-c", "log_connections=on", "-c", "log_disconnections=on")
	db.server = caddytest.Start(t, nil, server[0], server[1:]...)
	db.server.Prints(t, "ready to accept connections")
	db.query(t, "postgres", "create role app login")
	db.query(t, "postgres", "create database app owner app")
	db.query(t, "app", "create table history (client int); grant all on history to app")
	return db
}

// asOwner returns how to call PostgreSQL's server programs, which refuse to run as
// root: then another user gets the folder, and they run as that user.
func (db *postgres) asOwner(t *testing.T) func(program string) []string {
	t.Helper()
	var prefix []string
	if os.Getuid() == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		if err := os.Chown(db.dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		prefix = []string{"setpriv", "--reuid", owner.Uid, "--regid", owner.Gid, "--init-groups", "--"}
	}
	return func(program string) []string { return append(slices.Clone(prefix), filepath.Join(db.bin, program)) }
}

// postgresBin returns the folder of PostgreSQL's programs, the newest there is.
func postgresBin(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // Debian, where it is not in the PATH
	if path, err := exec.LookPath("postgres"); err == nil && len(found) == 0 {
		found = []string{path}
	}
	caddytest.Needs(t, "PostgreSQL", len(found) > 0)
	return filepath.Dir(found[len(found)-1])
}

// client starts psql or pgbench as the user and on the database named app.
func (db *postgres) client(t *testing.T, addr, name string, args ...string) *caddytest.Program {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	env := []string{"PGHOST=" + host, "PGPORT=" + port, "PGUSER=app", "PGDATABASE=app", "LC_ALL=C"}
	return caddytest.Start(t, env, filepath.Join(db.bin, name), args...)
}

// query runs a statement as superuser, past the lock, and returns its result.
func (db *postgres) query(t *testing.T, database, statement string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(db.addr)
	out, err := exec.Command(filepath.Join(db.bin, "psql"),
		"-h", db.dir, "-p", port, "-U", "postgres", "-d", database, "-Atc", statement).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", statement, err, out)
	}
	return strings.TrimSpace(string(out))
}

// The lock of examples/docker is in front of a PostgreSQL with as many connections as its compose.yaml
// gives it. No client of sixty is refused.
func TestPostgresOfCompose(t *testing.T) {
	db := startPostgres(t, 8)
	lock, _ := caddytest.LoadExample(t, "docker", db.addr)
	script := filepath.Join(t.TempDir(), "one.sql")
	if err := os.WriteFile(script, []byte("select 1;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := db.client(t, lock, "pgbench", "-n", "-C", "-c", "60", "-j", "60", "-t", "2", "-f", script).Result(t)
	if want := "processed: 120/120\n"; err != nil || !strings.Contains(out, want) {
		t.Errorf("through the lock: error %v, expected %s%s", err, want, out)
	}
	caddytest.InLine(t, "postgres", 0, 0)
	if most, _ := backends(db.server.Out.String()); most > 8 {
		t.Errorf("the database has seen %d clients at once, expected at most 8", most)
	}
}
