package tcplock_test

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
)

// A PostgreSQL with exactly as many connections to give as the lock has slots refuses
// some of forty clients that come straight to it. Through the lock not one transaction
// of theirs is lost: the database has them all.
func drivePostgres(t *testing.T) {
	const clients = "40"
	db := startPostgres(t, 8)
	lock, _ := loadExample(t, "postgres", db.addr)

	script := filepath.Join(t.TempDir(), "transaction.sql")
	if err := os.WriteFile(script, []byte("insert into history values (:client_id); select pg_sleep(:seconds);\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bench := func(addr, transactions, seconds string) (string, error) {
		// -C: a connection for each transaction. As many threads as clients, since
		// one that waits for a connection stops all clients of its thread.
		return db.client(t, addr, "pgbench", "-n", "-C", "-c", clients, "-j", clients,
			"-t", transactions, "-D", "seconds="+seconds, "-f", script).result(t)
	}
	refused := regexp.MustCompile("too many clients already|remaining connection slots are reserved")
	if out, err := bench(db.addr, "1", "3"); err == nil || !refused.MatchString(out) {
		t.Fatalf("without the lock: error %v, expected refused connections; so this proves nothing\n%s", err, out)
	}
	db.query(t, "app", "truncate history")
	out, err := bench(lock, "3", "0.02")
	if err != nil || !strings.Contains(out, "processed: 120/120\n") {
		t.Errorf("through the lock: error %v, expected 120 transactions processed\n%s", err, out)
	}
	if n := db.query(t, "app", "select count(*) from history"); n != "120" {
		t.Errorf("the database has %s transactions, expected 200", n)
	}
	t.Run("cancel", func(t *testing.T) { cancelQueries(t, db, lock) })
}

// Ctrl-C in psql cancels its query although all slots are taken and others wait: the
// request does not stand in line. A client that gives up in line is not served.
func cancelQueries(t *testing.T, db *postgres, lock string) {
	var sleepers []*program
	for i := range 8 {
		sleepers = append(sleepers, db.client(t, lock, "psql", "-c", "select pg_sleep(300)"))
		inLine(t, "postgres", i+1, 0)
	}
	quitter := db.client(t, lock, "psql", "-c", "insert into history values (-1)")
	inLine(t, "postgres", 8, 1)
	waiter := db.client(t, lock, "psql", "-Atc", "select 'served'")
	inLine(t, "postgres", 8, 2)
	quitter.stop(t)
	inLine(t, "postgres", 8, 1)
	eventually(t, "eight queries run", func() bool {
		return db.query(t, "app", "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(300)'") == "8"
	})

	for i, sleeper := range sleepers {
		sleeper.interrupt()
		out, err := sleeper.result(t)
		if err == nil || !strings.Contains(out, "canceling statement due to user request") {
			t.Fatalf("psql %d: found %v, expected its query to be cancelled\n%s", i, err, out)
		}
	}
	if out, err := waiter.result(t); err != nil || out != "served\n" {
		t.Errorf("psql in line: found %q, error %v, expected it to be served", out, err)
	}
	inLine(t, "postgres", 0, 0)
	if n := db.query(t, "app", "select count(*) from history where client = -1"); n != "0" {
		t.Error("a client that had given up in line was served")
	}
}

// postgres is a PostgreSQL of the test's own.
type postgres struct {
	bin  string
	addr string // on loopback
	dir  string // of its data and socket
}

// startPostgres starts one with so many connections for anybody but superusers.
func startPostgres(t *testing.T, connections int) *postgres {
	t.Helper()
	const reserved = 3
	db := &postgres{bin: postgresBin(t), addr: freeAddr(t)}
	// Not t.TempDir: what is above that only its owner may enter.
	var err error
	if db.dir, err = os.MkdirTemp("", "tcplock-pg"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(db.dir) })
	command := db.asOwner(t)
	data := filepath.Join(db.dir, "data")
	initdb := append(command("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N", "--no-locale")
	if out, err := start(t, nil, initdb[0], initdb[1:]...).result(t); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	host, port, _ := net.SplitHostPort(db.addr)
	server := append(command("postgres"), "-D", data, "-h", host, "-p", port, "-k", db.dir, "-F",
		"-c", fmt.Sprint("max_connections=", connections+reserved),
		"-c", fmt.Sprint("superuser_reserved_connections=", reserved))
	start(t, nil, server[0], server[1:]...).prints(t, "ready to accept connections")
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
	needs(t, "PostgreSQL", len(found) > 0)
	return filepath.Dir(found[len(found)-1])
}

// client starts psql or pgbench as the user and on the database named app.
func (db *postgres) client(t *testing.T, addr, name string, args ...string) *program {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	env := []string{"PGHOST=" + host, "PGPORT=" + port, "PGUSER=app", "PGDATABASE=app", "LC_ALL=C"}
	return start(t, env, filepath.Join(db.bin, name), args...)
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
