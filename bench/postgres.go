package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// postgres is a PostgreSQL that pgbench asks: a connection for each transaction, which only reads.
func postgres() work {
	w := work{
		name:   "pgbench",
		title:  "pgbench -C -S, clients: 16",
		unit:   "transactions/s",
		slots:  4,
		longer: 1,
		start:  startPostgres,
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(found) > 0 { // Debian
		_ = os.Setenv("PATH", found[len(found)-1]+":"+os.Getenv("PATH"))
	}
	w.missing = missingPrograms("postgresql", "initdb", "postgres", "pgbench")
	return w
}

func startPostgres(ctx context.Context, b *bench) (_ *job, err error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	at := netip.MustParseAddrPort(addr)
	dir, err := os.MkdirTemp(b.dir, "postgres")
	if err != nil {
		return nil, err
	}
	attr, err := ownerOf(dir, filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "--no-locale")
	initdb.SysProcAttr = attr
	if _, err := output(initdb); err != nil {
		return nil, err
	}
	server := exec.Command("postgres", "-D", data, "-h", at.Addr().String(), "-p", fmt.Sprint(at.Port()), "-k", "", "-F")
	server.SysProcAttr = attr
	p, err := launch(server, dir, "output")
	if err != nil {
		return nil, err
	}
	p.quit = syscall.SIGQUIT // when it is killed, its shared memory stays
	if err = p.prints(ctx, "ready to accept connections"); err == nil {
		_, err = output(pgbench(ctx, at, "-i", "-q"))
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return &job{service: addr, stop: p.stop, do: transactions}, nil
}

// ownerOf gives a directory to PostgreSQL's user if this process is root, since PostgreSQL refuses to run
// as root. That user must also be able to enter the directory above it.
func ownerOf(dir, above string) (*syscall.SysProcAttr, error) {
	attr := new(syscall.SysProcAttr)
	if os.Getuid() != 0 {
		return attr, nil
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(above, 0o711); err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(dir, uid, gid)
}

func pgbench(ctx context.Context, at netip.AddrPort, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "pgbench", args...)
	cmd.Env = append(os.Environ(), "PGHOST="+at.Addr().String(), fmt.Sprintf("PGPORT=%d", at.Port()), "PGUSER=postgres",
		"PGDATABASE=postgres", "PGCONNECT_TIMEOUT=60", "LC_ALL=C")
	return cmd
}

var perSecond = regexp.MustCompile(`tps = (\S+) `)

// transactions runs pgbench. It has as many threads as clients: a client that waits for its connection
// stops all clients of its thread.
func transactions(ctx context.Context, r *result, t *target, d time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d+2*patience)
	defer cancel()
	seconds := strconv.Itoa(max(1, int(d.Round(time.Second).Seconds())))
	bench := func() (string, error) {
		return output(pgbench(ctx, t.addr(), "-n", "-C", "-S", "-c", "16", "-j", "16", "-T", seconds))
	}
	out, err := bench()
	if err != nil && t.kind == haproxy {
		r.remark(t.name + " let a client of pgbench wait until it gave up; the round was repeated")
		out, err = bench()
	}
	if err != nil {
		return 0, err
	}
	found := perSecond.FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("pgbench: found no tps in %q", out)
	}
	return strconv.ParseFloat(found[1], 64)
}
