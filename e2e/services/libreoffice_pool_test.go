//go:build unix

package services_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// TestLibreOfficePool drives examples/libreoffice-pool with two real LibreOffices, which Caddy
// starts. 24 clients at once convert 24 documents into other formats, and then 56 into PDFs: 80
// conversions. Each soffice is restarted after 10. One soffice is killed in the middle of a
// conversion, and one client stops in the middle of a message and stays until hold_timeout. Only
// the client of the killed soffice fails, and no soffice ever sees two connections. When Caddy has
// ended, no process is left.
func TestLibreOfficePool(t *testing.T) {
	const (
		clients      = 24
		documents    = 56
		restartEvery = 10 // the Caddyfile's
		wedgedAfter  = 10 // PDFs
		killedAfter  = 25 // PDFs
		holdTimeout  = 15 * time.Second
	)
	needLibreOffice(t)
	docs := writeDocuments(t, t.TempDir())[:documents]
	made := slices.DeleteFunc(slices.Clone(docs), func(doc document) bool { return doc.source == doc.path })
	if n := len(made) + len(docs); n != 80 {
		t.Fatalf("found %d conversions, expected 80", n)
	}
	pool := startPool(t, 2, holdTimeout)

	caddytest.Crowd(clients, made, func(_ int, doc document) {
		if err := pool.convert(t, doc.source, doc.path); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	var wedged sync.WaitGroup
	caddytest.Crowd(clients, docs, func(i int, doc document) {
		switch i {
		case wedgedAfter:
			wedged.Go(func() { (&office{lock: pool.lock}).wedge(t, holdTimeout) })
		case killedAfter:
			pool.killNext()
		}
		if err := pool.convert(t, doc.path, doc.pdf()); err != nil {
			pool.fail(doc, err)
		}
	})
	wedged.Wait()
	if len(pool.failed) != 1 || pool.killed == 0 {
		t.Errorf("found failed conversions %v, killed %d, expected the one whose soffice was killed", pool.failed, pool.killed)
	}
	for doc := range pool.failed {
		if err := pool.convert(t, doc.path, doc.pdf()); err != nil {
			t.Errorf("second try: %v", err)
		}
	}
	for _, doc := range docs {
		if err := checkPDF(doc); err != nil {
			t.Errorf("%s: %v", doc.pdf(), err)
		}
	}
	pool.check(t, restartEvery)
	for _, reason := range []string{"every", "exit", "hold_timeout"} {
		caddytest.Eventually(t, "a soffice is restarted for "+reason, func() bool { return pool.restarts(reason) > 0 })
		t.Logf("restarts for %s: %d", reason, pool.restarts(reason))
	}
	if left := pool.left(t); left == "" {
		t.Error("found no process while Caddy runs, expected some")
	}
	pool.stop()
	if left := pool.left(t); left != "" {
		t.Errorf("found processes after Caddy's exit, expected none:\n%s", left)
	}
}

// officePool is Caddy with several LibreOffices, as in examples/libreoffice-pool. A forwarder
// before each LibreOffice counts its connections.
type officePool struct {
	lock    string // the lock's address
	home    string // Caddy's
	log     *caddytest.Output
	stop    func() // ends Caddy
	workers []*caddytest.Service

	mu     sync.Mutex
	now    int         // connections at this moment, to all of them
	most   int         // the most at any moment
	served map[int]int // connections by the pid of soffice
	groups map[int]bool
	kill   bool  // kill the soffice of the next connection
	killed int   // the pid of that soffice
	wedged int   // the pid of the soffice that the wedged client got
	after  []int // the pids that served a client when they should have ended
	failed map[document]error
}

func startPool(t *testing.T, workers int, holdTimeout time.Duration) *officePool {
	t.Helper()
	p := &officePool{
		lock:   caddytest.FreeAddr(t),
		home:   t.TempDir(),
		log:    new(caddytest.Output),
		served: make(map[int]int),
		groups: make(map[int]bool),
		failed: make(map[document]error),
	}
	// Each forwarder has the port of its soffice, at another address.
	var addresses []string
	for range workers {
		port := caddytest.PortOf(t, caddytest.FreeAddr(t))
		w := caddytest.NewServiceAt(t, net.JoinHostPort(forwarderHost, port), func(down *net.TCPConn) { p.forward(t, down, port) })
		p.workers = append(p.workers, w)
		addresses = append(addresses, w.Addr)
	}

	// The shell ends Caddy when its input ends. So Caddy ends even if this process is killed, as
	// happens when the tests take too long.
	cmd := exec.Command("sh", "-c", `"$0" run & read -r _; kill $!; wait $!`, caddytest.BuildCaddy(t))
	cmd.Dir = "../../examples/libreoffice-pool"
	cmd.Env = append(os.Environ(),
		"LOCK="+p.lock,
		"WORKERS="+strings.Join(addresses, " "),
		"HOLD_TIMEOUT="+holdTimeout.String(),
		"CADDY_ADMIN="+caddytest.FreeAddr(t),
		"HOME="+p.home,
		"XDG_CONFIG_HOME="+p.home,
		"XDG_DATA_HOME="+p.home)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt must not reach it before its input ends
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stop = sync.OnceFunc(func() {
		kill := time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer kill.Stop()
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("Caddy stops: %v", err)
		}
	})
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("Caddy's log:\n%s", p.log)
		}
	})
	caddytest.Within(t, caddytest.Longest, "every soffice runs", func() bool { return strings.Count(p.log.String(), `"msg":"service started"`) == workers })
	return p
}

// forwarderHost is where the forwarders listen. The Caddyfile has each soffice at
// 127.0.0.1, on the port of its worker.
const forwarderHost = "127.0.0.2"

// forward connects the lock to soffice, and returns when soffice has closed its side: a
// connection counts until then, and the lock learns of its end only after that.
func (p *officePool) forward(t *testing.T, down *net.TCPConn, port string) {
	up, pid, late := p.reach(t, port)
	if up == nil {
		return
	}
	defer up.Close()
	p.count(1)
	defer p.count(-1)
	first := make([]byte, len(wedge))
	n, _ := io.ReadFull(down, first)
	kill := p.note(pid, string(first[:n]) == wedge, late)
	go func() {
		_, _ = up.Write(first[:n])
		if kill {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_, _ = io.Copy(up, down)
		_ = up.CloseWrite()
	}()
	_, _ = io.Copy(down, up)
	if kill {
		caddytest.Eventually(t, "soffice is dead", func() bool { return !slices.Contains(p.processes(t, port), pid) })
	}
}

// reach connects to soffice. The lock may learn of its crash a moment after it has let the next
// client through. Without the forwarder the connect would fail, and the client would go back in
// line. The forwarder has accepted the connection already. So it keeps it until there is another
// soffice, which then has one late client that the lock does not count.
func (p *officePool) reach(t *testing.T, port string) (up *net.TCPConn, pid int, late bool) {
	for end := time.Now().Add(caddytest.Patience); ; late = true {
		pids := p.processes(t, port)
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil && len(pids) == 1 {
			return conn.(*net.TCPConn), pids[0], late
		}
		if err == nil {
			conn.Close()
		}
		if time.Now().After(end) {
			t.Errorf("soffice %s: found processes %v, error %v, expected one that can be reached", port, pids, err)
			return nil, 0, late
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *officePool) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now += n
	p.most = max(p.most, p.now)
}

// note records a connection. It returns whether the test must kill its soffice.
func (p *officePool) note(pid int, wedged, late bool) (kill bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pid == p.killed || pid == p.wedged {
		p.after = append(p.after, pid)
	}
	if !late {
		p.served[pid]++
	}
	if group, err := syscall.Getpgid(pid); err == nil {
		p.groups[group] = true
	}
	switch {
	case wedged:
		p.wedged = pid
	case p.kill:
		p.kill, p.killed = false, pid
		return true
	}
	return false
}

func (p *officePool) killNext() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kill = true
}

func (p *officePool) fail(doc document, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed[doc] = err
}

// convert is a client that converts a document.
func (p *officePool) convert(t *testing.T, from, to string) error {
	ctx, cancel := context.WithTimeout(t.Context(), officePatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, caddytest.Python, "../../examples/libreoffice/convert.py", "--port", caddytest.PortOf(t, p.lock), from, to)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("convert.py %s %s: %w\n%s", from, to, err, out)
	}
	return nil
}

// check checks how many clients each worker has served, and that it served one at a time.
func (p *officePool) check(t *testing.T, restartEvery int) {
	t.Helper()
	for _, w := range p.workers {
		if _, most, total := w.Counts(); most != 1 || total == 0 {
			t.Errorf("worker %s has seen %d connections, %d at a time, expected some, one at a time", w.Addr, total, most)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.most != len(p.workers) {
		t.Errorf("found up to %d documents at a time, expected %d", p.most, len(p.workers))
	}
	if len(p.after) > 0 || p.wedged == 0 {
		t.Errorf("soffice %v have served another client after they were killed (%d) or wedged (%d)", p.after, p.killed, p.wedged)
	}
	for pid, times := range p.served {
		t.Logf("soffice %d: %d connections", pid, times)
		if times > restartEvery {
			t.Errorf("soffice %d has served %d connections, expected a restart after %d", pid, times, restartEvery)
		}
	}
}

// restarts counts the restarts for a reason in Caddy's log.
func (p *officePool) restarts(reason string) int {
	line := regexp.MustCompile(`"msg":"service restarted".*"reason":"` + reason + `"`)
	return len(line.FindAllString(p.log.String(), -1))
}

// processes returns the pids of soffice.bin that listen on a port.
func (p *officePool) processes(t *testing.T, port string) (pids []int) {
	t.Helper()
	for _, process := range caddytest.AllProcesses(t) {
		if process.Comm == "soffice.bin" && strings.Contains(process.Args, p.profile(port)) {
			pids = append(pids, process.Pid)
		}
	}
	return pids
}

func (p *officePool) profile(port string) string {
	return "file://" + filepath.Join(p.home, ".cache", "soffice-pool", port)
}

// left returns the processes that still run. It finds them by their profile, and by the process
// groups of soffice.
func (p *officePool) left(t *testing.T) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []string
	for _, process := range caddytest.AllProcesses(t) {
		if p.groups[process.Group] || strings.Contains(process.Args, "file://"+p.home) {
			left = append(left, fmt.Sprintf("%+v", process))
		}
	}
	return strings.Join(left, "\n")
}
