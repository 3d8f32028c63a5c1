//go:build unix

package processes_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Web servers behind "service": python3 -m http.server, one process for each worker. Each
// has a directory of its own, and serves from there the pids of all the processes that its
// slot has had so far. The last pid is its own. So an answer shows which process gave it.

// webPool is a lock in front of such servers.
type webPool struct {
	lock    string // the lock's address
	dir     string
	workers []string
}

func newWebPool(t *testing.T, workers int) *webPool {
	t.Helper()
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	w := &webPool{lock: caddytest.FreeAddr(t), dir: t.TempDir()}
	for i := range workers {
		w.workers = append(w.workers, caddytest.FreeAddr(t))
		if err := os.Mkdir(filepath.Join(w.dir, strconv.Itoa(i+1)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		// If a connection was the last to leave the lock, the lock is still ending the processes.
		caddytest.Eventually(t, "no process is left when Caddy has stopped", func() bool { return len(w.left(t)) == 0 })
	})
	return w
}

// config returns a Caddyfile with these options of the service and of the lock.
func (w *webPool) config(options, settings string) string {
	return w.configOf("", options, settings)
}

// configOf is like config, with a command before the server.
func (w *webPool) configOf(command, options, settings string) string {
	return caddytest.LockConfig(w.lock, fmt.Sprintf(`tcplock {
		workers %s
		service sh -c "echo $$ $(ps -o pgid= -p $$) >>groups; echo $$ >>pids; %s exec %s -m http.server --bind {l4.tcplock.worker_host} {l4.tcplock.worker_port}" {
			dir %s/{l4.tcplock.slot}
			%s
		}
		%s
	}`, strings.Join(w.workers, " "), command, caddytest.Python, w.dir, options, settings), "{l4.tcplock.worker}")
}

// pids returns the pids of the processes that a slot has had so far.
func (w *webPool) pids(t *testing.T, slot int) (pids []int) {
	t.Helper()
	list, err := os.ReadFile(filepath.Join(w.dir, strconv.Itoa(slot), "pids"))
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	return caddytest.ParsePids(t, string(list))
}

// started waits until a slot has had n processes, and returns the last one.
func (w *webPool) started(t *testing.T, slot, n int) (pid int) {
	t.Helper()
	caddytest.Eventually(t, fmt.Sprintf("slot %d has its process %d", slot, n), func() bool { return len(w.pids(t, slot)) >= n })
	pids := w.pids(t, slot)
	if len(pids) != n {
		t.Fatalf("slot %d has had processes %v, expected %d", slot, pids, n)
	}
	return pids[n-1]
}

// left returns the processes that run, with all those in their groups.
func (w *webPool) left(t *testing.T) (left []caddytest.PsLine) {
	t.Helper()
	all := caddytest.AllProcesses(t)
	for slot := range w.workers {
		for _, pid := range w.pids(t, slot+1) {
			left = append(left, w.group(t, all, pid)...)
		}
	}
	return left
}

// group returns all processes in the group of a worker's process, which may have ended.
func (w *webPool) group(t *testing.T, all []caddytest.PsLine, pid int) []caddytest.PsLine {
	t.Helper()
	for slot := range w.workers {
		list, _ := os.ReadFile(filepath.Join(w.dir, strconv.Itoa(slot+1), "groups"))
		for line := range strings.Lines(string(list)) {
			if ids := caddytest.ParsePids(t, line); len(ids) == 2 && ids[0] == pid {
				return slices.DeleteFunc(slices.Clone(all), func(p caddytest.PsLine) bool { return p.Group != ids[1] })
			}
		}
	}
	t.Errorf("found no group of process %d", pid)
	return nil
}

// ended waits until a process and all of its group have ended.
func (w *webPool) ended(t *testing.T, pid int) {
	t.Helper()
	caddytest.Eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return len(w.group(t, caddytest.AllProcesses(t), pid)) == 0 })
}

// ask sends a client, and returns the pid of the process that has answered.
func (w *webPool) ask(t *testing.T) (pid int) {
	t.Helper()
	conn := caddytest.Dial(t, w.lock)
	defer conn.Close()
	caddytest.Send(t, conn, "GET /pids HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Errorf("found no answer: %v", err)
		return 0
	}
	body, err := io.ReadAll(resp.Body)
	pids := caddytest.ParsePids(t, string(body))
	if err != nil || resp.StatusCode != http.StatusOK || len(pids) == 0 {
		t.Errorf("found status %s, body %q, error %v, expected pids", resp.Status, body, err)
		return 0
	}
	return pids[len(pids)-1]
}

// askMany sends n clients, four at once, and returns how many each process has served.
func (w *webPool) askMany(t *testing.T, clients int) map[int]int {
	t.Helper()
	var mu sync.Mutex
	served := make(map[int]int)
	caddytest.Crowd(4, make([]struct{}, clients), func(int, struct{}) {
		pid := w.ask(t)
		mu.Lock()
		defer mu.Unlock()
		served[pid]++
	})
	return served
}

// With start eager the process runs before the first client comes. With lazy, the lock starts it
// for the first client, which waits for it and is served.
func TestServiceStart(t *testing.T) {
	for _, eager := range []bool{true, false} {
		t.Run(fmt.Sprint("eager ", eager), func(t *testing.T) {
			w := newWebPool(t, 1)
			if eager {
				caddytest.Load(t, w.config("", "")) // the default
				w.started(t, 1, 1)
			} else {
				caddytest.Load(t, w.config("start lazy", ""))
				time.Sleep(300 * time.Millisecond)
				if pids := w.pids(t, 1); len(pids) > 0 {
					t.Errorf("found process %v before the first client, expected none", pids)
				}
			}
			pid := w.ask(t)
			if again := w.ask(t); pid != again || pid != w.started(t, 1, 1) {
				t.Errorf("processes %d and %d have answered, expected the one and only", pid, again)
			}
		})
	}
}

// Every third client is the last of its process. All are served, and the next process is
// started when the third client has gone, not when another one comes.
func TestServiceRestartEvery(t *testing.T) {
	w := newWebPool(t, 1)
	caddytest.Load(t, w.config("restart every 3", ""))
	served := w.askMany(t, 12)
	w.started(t, 1, 5)
	for i, pid := range w.pids(t, 1)[:4] {
		if served[pid] != 3 {
			t.Errorf("process %d has served %d clients, expected 3", i+1, served[pid])
		}
		w.ended(t, pid)
	}
	if len(served) != 4 {
		t.Errorf("clients by process: %v, expected 3 for each of 4", served)
	}
}

// One of two servers is killed. Clients lose only the time until it is back, and the other server
// goes on.
func TestServiceKilled(t *testing.T) {
	w := newWebPool(t, 2)
	caddytest.Load(t, w.config("", ""))
	caddytest.Eventually(t, "both serve", func() bool { return len(w.askMany(t, 4)) == 2 })
	killed, other := w.started(t, 1, 1), w.started(t, 2, 1)
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The server's socket takes connections until the server is dead.
	caddytest.Eventually(t, "it is dead", func() bool {
		return !slices.ContainsFunc(caddytest.AllProcesses(t), func(p caddytest.PsLine) bool { return p.Pid == killed })
	})
	served := w.askMany(t, 20)
	back := w.started(t, 1, 2)
	caddytest.Eventually(t, "both serve", func() bool {
		for pid, n := range w.askMany(t, 4) {
			served[pid] += n
		}
		return served[back] > 0
	})
	if w.started(t, 2, 1) != other || served[other] == 0 || served[killed] > 0 || len(served) != 2 {
		t.Errorf("clients by process: %v, expected only %d and %d, not %d", served, back, other, killed)
	}
	w.ended(t, killed)
}

// A server answers one client and ends. That is no failure: the next process is started at once,
// and no client reaches one that is ending. Neither the exit status nor how soon the client closes
// makes a difference.
func TestServiceForOneClient(t *testing.T) {
	for status := range 2 {
		for _, stays := range []time.Duration{0, 50 * time.Millisecond} {
			t.Run(fmt.Sprintf("status %d, client stays %s", status, stays), func(t *testing.T) { serveOneByOne(t, status, stays) })
		}
	}
}

func serveOneByOne(t *testing.T, status int, stays time.Duration) {
	const clients = 6
	const server = `import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
open(sys.argv[2], "w").close()
client, _ = listener.accept()
os.remove(sys.argv[2])
client.sendall(b"%d" % os.getpid())
sys.exit(int(sys.argv[3]))`
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	dir, addr := t.TempDir(), caddytest.FreeAddr(t)
	if err := os.WriteFile(filepath.Join(dir, "server.py"), []byte(server), 0o600); err != nil {
		t.Fatal(err)
	}
	caddytest.Load(t, caddytest.PoolConfig(addr, fmt.Sprintf("service %s %s/server.py {l4.tcplock.worker_port} %[2]s/ready %[3]d {\nready exec test -e %[2]s/ready\nrestart every 1\n}", caddytest.Python, dir, status), caddytest.FreeAddr(t)))
	start, served := time.Now(), make(map[string]bool)
	for range clients {
		conn := caddytest.Dial(t, addr)
		pid, err := io.ReadAll(conn)
		if err != nil || len(pid) == 0 || served[string(pid)] {
			t.Errorf("found %q, error %v, expected the pid of another server each time", pid, err)
		}
		served[string(pid)] = true
		time.Sleep(stays)
		conn.Close()
	}
	if took := time.Since(start); took > caddytest.Patience/2 {
		t.Errorf("%d clients took %s, expected no pauses", clients, took)
	}
}

// A plain server accepts, receives, answers and closes, and handles no errors. It survives the
// probes of its readiness and of worker_check: one process answers all clients.
func TestServiceSurvivesProbes(t *testing.T) {
	const clients = 5
	const server = `import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    question = client.recv(100)
    question and client.sendall(b"%d" % os.getpid())
    client.close()`
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	file, addr := filepath.Join(t.TempDir(), "server.py"), caddytest.FreeAddr(t)
	if err := os.WriteFile(file, []byte(server), 0o600); err != nil {
		t.Fatal(err)
	}
	caddytest.Load(t, caddytest.PoolConfig(addr, fmt.Sprintf("worker_check 10s\nservice %s %s {l4.tcplock.worker_port}", caddytest.Python, file), caddytest.FreeAddr(t)))
	first := ""
	for i := range clients {
		conn := caddytest.Dial(t, addr)
		caddytest.Send(t, conn, "question")
		pid, err := io.ReadAll(conn)
		if err != nil || len(pid) == 0 || i > 0 && string(pid) != first {
			t.Errorf("client %d got %q, error %v, expected the pid of the first process, %s", i, pid, err, first)
		}
		first = string(pid)
		conn.Close()
	}
}

// Clients connect, and leave before the hooks are done. They never reach the server, and do not
// count for its restart.
func TestServiceRestartEveryNotForGone(t *testing.T) {
	w := newWebPool(t, 1)
	caddytest.Load(t, w.config("restart every 8", "on activate exec sleep 0.2"))
	first := w.ask(t)
	for range 12 { // of which some may be slow
		caddytest.InLine(t, "default", 0, 0)
		conn := caddytest.Dial(t, w.lock)
		caddytest.InLine(t, "default", 1, 0)
		conn.Close()
	}
	caddytest.InLine(t, "default", 0, 0)
	if again := w.ask(t); again != first {
		t.Errorf("process %d has answered, expected the first one, %d: clients that had gone counted", again, first)
	}
}

// A server ends after one connection, so the probe ends it. The start has failed, and the status
// says what to do.
func TestServiceEndsOfProbe(t *testing.T) {
	const server = `import os, socket, sys
socket.create_server(("127.0.0.1", int(sys.argv[1]))).accept()[0].recv(1)
os._exit(3)`
	failing(t, server, "", "a server that ends after one connection needs ready exec")
}

// A server goes to the background. Its start has failed: the lock could not stop it any more, and
// it has the address of the next process.
func TestServiceInBackground(t *testing.T) {
	const server = `import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
r, w = os.pipe()
if os.fork():
    os.read(r, 1)
    os._exit(0)
os.setsid()
open(sys.argv[2], "w").write(str(os.getpid()))
os.write(w, b"x")
os.close(1)
os.close(2)
while True:
    client, _ = listener.accept()
    client.recv(1)
    client.close()`
	pidFile := filepath.Join(t.TempDir(), "pid")
	t.Cleanup(func() {
		pid, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range caddytest.ParsePids(t, string(pid)) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	failing(t, server, pidFile, "the service seems to have gone to the background", "something else listens on")
}

// failing starts a server that fails to start, and waits until the status says why.
func failing(t *testing.T, server, arg string, whys ...string) {
	t.Helper()
	caddytest.Needs(t, caddytest.Python, exec.Command(caddytest.Python, "--version").Run() == nil)
	file := filepath.Join(t.TempDir(), "server.py")
	if err := os.WriteFile(file, []byte(server), 0o600); err != nil {
		t.Fatal(err)
	}
	config, a := caddytest.WithAdmin(t, caddytest.PoolConfig(caddytest.FreeAddr(t), fmt.Sprintf("service %s %s {l4.tcplock.worker_port} %s", caddytest.Python, file, arg), caddytest.FreeAddr(t)))
	caddytest.Load(t, config)
	for _, why := range whys {
		caddytest.Eventually(t, "the status says "+why, func() bool {
			w := a.Lock(t, "default").Workers[0]
			return w.State != "up" && strings.Contains(w.Process.Failed, why)
		})
	}
}

// When no client comes, the server is stopped. For the next client, another process is started.
func TestServiceStopIdle(t *testing.T) {
	w := newWebPool(t, 1)
	caddytest.Load(t, w.config("stop_idle 2s", ""))
	first := w.ask(t)
	w.ended(t, first)
	time.Sleep(500 * time.Millisecond)
	w.started(t, 1, 1)
	if second := w.ask(t); second == first || second != w.started(t, 1, 2) {
		t.Errorf("process %d has answered, expected another than the first one, %d", second, first)
	}

	// A client that stays and sends nothing keeps the server running.
	second := w.pids(t, 1)[1]
	caddytest.InLine(t, "default", 0, 0)
	caddytest.InLine(t, "default", 0, 0)
	conn := caddytest.Dial(t, w.lock)
	caddytest.InLine(t, "default", 1, 0)
	time.Sleep(2500 * time.Millisecond)
	if len(w.group(t, caddytest.AllProcesses(t), second)) == 0 {
		t.Error("the server was stopped although it had a client")
	}
	conn.Close()
	w.ended(t, second)
}

// A reload keeps the servers if it does not concern them. Otherwise it restarts them: at once if
// they serve no client, otherwise when the client has gone. The server of a removed worker ends,
// and that of an added one starts.
func TestServiceReload(t *testing.T) {
	w := newWebPool(t, 2)
	caddytest.Load(t, w.config("", ""))
	first, second := w.started(t, 1, 1), w.started(t, 2, 1)
	caddytest.Eventually(t, "both serve", func() bool { return len(w.askMany(t, 4)) == 2 })

	caddytest.Load(t, w.config("restart every 1000\nstop_timeout 5s\nmax_memory 10GiB", "wait_timeout 1h"))
	for pid := range w.askMany(t, 8) {
		if pid != first && pid != second {
			t.Errorf("process %d has answered after a reload that does not concern it, expected %d or %d", pid, first, second)
		}
	}

	caddytest.InLine(t, "default", 0, 0)
	caddytest.InLine(t, "default", 0, 0)
	holder := caddytest.Dial(t, w.lock)
	caddytest.InLine(t, "default", 1, 0)
	caddytest.Send(t, holder, "GET /pids HTTP/1.0\r\n") // and no more
	caddytest.Load(t, w.config("env NEW settings", ""))
	caddytest.Eventually(t, "one server was restarted", func() bool { return len(w.pids(t, 1))+len(w.pids(t, 2)) == 3 })
	kept, slot := first, 1
	if len(w.pids(t, 1)) == 2 {
		kept, slot = second, 2
	}
	w.ask(t)
	if pids := w.pids(t, slot); len(pids) != 1 {
		t.Fatalf("slot %d has had processes %v, expected one as long as it has its client", slot, pids)
	}
	caddytest.Send(t, holder, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(holder), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the client that was there at the reload: %v, error %v, expected its answer", resp, err)
	}
	holder.Close()
	w.ended(t, kept)
	first, second = w.started(t, 1, 2), w.started(t, 2, 2)

	all := w.workers
	w.workers = all[:1]
	caddytest.Load(t, w.config("env NEW settings", ""))
	w.workers = all
	w.ended(t, second)
	if served := w.askMany(t, 4); served[first] != 4 {
		t.Errorf("clients by process: %v, expected all for that of the worker that was kept, %d", served, first)
	}
	caddytest.Load(t, w.config("env NEW settings", ""))
	third := w.started(t, 2, 3)
	if w.started(t, 1, 2) != first {
		t.Errorf("slot 1 has had processes %v, expected no new one", w.pids(t, 1))
	}
	caddytest.Eventually(t, "the added worker serves", func() bool { return w.askMany(t, 4)[third] > 0 })
}

// When Caddy ends, it ends its servers and all processes of their groups, also a process that
// ignores SIGTERM. If Caddy is killed, they die with it.
func TestServiceEndsWithCaddy(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			w := newWebPool(t, 2)
			config, home := filepath.Join(t.TempDir(), "Caddyfile"), t.TempDir()
			text := w.configOf(`(trap '' TERM; exec sleep 1000) &`, "", "")
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			caddy := caddytest.Start(t, []string{"XDG_CONFIG_HOME=" + home, "XDG_DATA_HOME=" + home},
				caddytest.Caddy(t), "run", "--config", config)
			caddy.Prints(t, "serving initial configuration")
			caddytest.Eventually(t, "both serve", func() bool { return len(w.askMany(t, 4)) == 2 })
			for slot := range w.workers {
				members := w.group(t, caddytest.AllProcesses(t), w.started(t, slot+1, 1))
				if !slices.ContainsFunc(members, func(p caddytest.PsLine) bool { return p.Args == "sleep 1000" }) {
					t.Errorf("slot %d: found %+v, expected the server and its child", slot+1, members)
				}
			}
			if err := caddy.Cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if _, err := caddy.Result(t); err != nil && sig != syscall.SIGKILL {
				t.Errorf("Caddy's end: %v", err)
			}
			if sig == syscall.SIGKILL {
				if runtime.GOOS != "linux" {
					return
				}
				caddytest.Eventually(t, "all have died", func() bool { return len(w.left(t)) == 0 })
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("found %+v after Caddy's exit, expected no process", left)
			}
		})
	}
}
