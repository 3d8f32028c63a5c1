//go:build unix

package services_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// TestLibreOffice drives examples/libreoffice with a real LibreOffice. 16 clients at once
// convert 30 documents into other formats, and then 62 into PDFs. Every 20th connection gets a new
// soffice. One client stops in the middle of a message and stays until hold_timeout. In the end
// soffice crashes. It never sees two connections at a time, and each PDF is right.
func TestLibreOffice(t *testing.T) {
	const (
		clients     = 16
		restartedBy = 20 // the Caddyfile's every
		wedgedAfter = 25 // documents
		holdTimeout = 15 * time.Second
	)
	needLibreOffice(t)
	docs := writeDocuments(t, t.TempDir())
	office := startOffice(t, holdTimeout)

	made := slices.DeleteFunc(slices.Clone(docs), func(doc document) bool { return doc.source == doc.path })
	caddytest.Crowd(clients, made, func(_ int, doc document) { office.convert(t, doc.source, doc.path) })
	if t.Failed() {
		t.FailNow()
	}
	var wedged sync.WaitGroup
	caddytest.Crowd(clients, docs, func(i int, doc document) {
		if i == wedgedAfter {
			wedged.Go(func() { office.wedge(t, holdTimeout) })
		}
		office.convert(t, doc.path, doc.pdf())
	})
	wedged.Wait()
	for _, doc := range docs {
		if err := checkPDF(doc); err != nil {
			t.Errorf("%s: %v", doc.pdf(), err)
		}
	}

	pids := office.processes(t)
	if len(pids) != 1 {
		t.Fatalf("found processes %v of soffice, expected one", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	caddytest.Eventually(t, "soffice has crashed", func() bool { return len(office.processes(t)) == 0 })
	office.convert(t, docs[0].path, docs[0].pdf())

	office.mu.Lock()
	defer office.mu.Unlock()
	want := len(made) + len(docs) + 2
	if _, most, total := office.forwarder.Counts(); most != 1 || total != want {
		t.Errorf("soffice has seen %d connections, %d at a time, expected %d, one at a time", total, most, want)
	}
	if len(office.served) < 3 {
		t.Errorf("found %d soffice processes, expected 3 or more", len(office.served))
	}
	for pid, times := range office.served {
		t.Logf("soffice %d: %d connections", pid, times)
		if times > restartedBy {
			t.Errorf("soffice %d has served %d connections, expected a restart after %d", pid, times, restartedBy)
		}
	}
	if office.afterWedge == office.wedged {
		t.Errorf("soffice %d has served another connection after the wedged one, expected a restart", office.wedged)
	}
}

// needLibreOffice skips the test where LibreOffice is not installed.
func needLibreOffice(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("soffice")
	if err == nil {
		err = exec.Command(caddytest.Python, "-c", "import uno").Run()
	}
	if err == nil {
		return
	}
	if os.Getenv("TCPLOCK_REQUIRE_SERVICES") == "1" {
		t.Fatalf("found no LibreOffice: %v", err)
	}
	t.Skipf("needs LibreOffice (on Debian libreoffice-writer-nogui, libreoffice-calc-nogui, python3-uno): %v", err)
}

// office is a LibreOffice behind the lock, as in examples/libreoffice. A forwarder between the
// two counts the connections.
type office struct {
	lock      string // the lock's address
	port      string // soffice's port
	dir       string // soffice.sh's
	forwarder *caddytest.Service

	mu         sync.Mutex
	served     map[int]int // connections by the pid of soffice
	wedged     int         // the pid of the soffice that the wedged client got
	afterWedge int         // the pid of the soffice that the next client got
}

// officePatience is how long a client may wait in line and be served, also on a busy machine.
const officePatience = 5 * time.Minute

// wedge is the beginning of a UNO message of 4096 bytes.
const wedge = "\x00\x00\x10\x00\x00\x00\x00\x01wedged"

func startOffice(t *testing.T, holdTimeout time.Duration) *office {
	t.Helper()
	o := &office{lock: caddytest.FreeAddr(t), port: caddytest.PortOf(t, caddytest.FreeAddr(t)), dir: t.TempDir(), served: make(map[int]int)}
	o.forwarder = caddytest.NewService(t, func(down *net.TCPConn) { o.forward(t, down) })
	admin := caddytest.FreeAddr(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "caddy.log"))
	if err != nil {
		t.Fatal(err)
	}

	// The shell ends Caddy and soffice when its input ends. So they end even if this process is
	// killed, as happens when the tests take too long.
	cmd := exec.Command("sh", "-c", `"$0" run & read -r _; kill $!; wait $!; ./soffice.sh stop "$SOFFICE_PORT"`, caddytest.BuildCaddy(t))
	cmd.Dir = "../../examples/libreoffice"
	cmd.Env = append(os.Environ(),
		"LOCK="+o.lock,
		"SOFFICE="+o.forwarder.Addr,
		"SOFFICE_PORT="+o.port,
		"SOFFICE_DIR="+o.dir,
		"HOLD_TIMEOUT="+holdTimeout.String(),
		"CADDY_ADMIN="+admin,
		"XDG_CONFIG_HOME="+t.TempDir(),
		"XDG_DATA_HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt must not reach it before its input ends
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill := time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer kill.Stop()
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("Caddy and soffice.sh stop: %v", err)
		}
		if left, _ := exec.Command("ps", "-ww", "-e", "-o", "pid=,args=").Output(); bytes.Contains(left, []byte("file://"+o.dir)) {
			t.Errorf("found a process of soffice after its stop, expected none:\n%s", left)
		}
		if out, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("Caddy's log:\n%s", out)
		}
		log.Close()
	})
	caddytest.Eventually(t, "Caddy runs", func() bool {
		resp, err := http.Get("http://" + admin + "/config/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return o
}

// forward connects the lock to soffice, and returns when soffice has closed its side: a
// connection counts until then, and the lock learns of its end only after that.
func (o *office) forward(t *testing.T, down *net.TCPConn) {
	pids := o.processes(t)
	if len(pids) != 1 {
		t.Errorf("found processes %v of soffice, expected one", pids)
		return
	}
	up, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", o.port))
	if err != nil {
		t.Error(err)
		return
	}
	defer up.Close()
	first := make([]byte, len(wedge))
	n, _ := io.ReadFull(down, first)
	o.mu.Lock()
	o.served[pids[0]]++
	if o.wedged != 0 && o.afterWedge == 0 {
		o.afterWedge = pids[0]
	}
	if string(first[:n]) == wedge {
		o.wedged = pids[0]
	}
	o.mu.Unlock()
	go func() {
		_, _ = up.Write(first[:n])
		_, _ = io.Copy(up, down)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(down, up)
}

// convert is a client that converts a document.
func (o *office) convert(t *testing.T, from, to string) {
	ctx, cancel := context.WithTimeout(t.Context(), officePatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, caddytest.Python, "../../examples/libreoffice/convert.py", "--port", caddytest.PortOf(t, o.lock), from, to)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("convert.py %s %s: %v\n%s", from, to, err, out)
	}
}

// wedge is a client that neither goes on nor leaves. The lock ends it.
func (o *office) wedge(t *testing.T, holdTimeout time.Duration) {
	conn, err := net.Dial("tcp", o.lock)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(officePatience))
	if _, err := io.WriteString(conn, wedge); err != nil {
		t.Error(err)
	}
	// soffice sends first. So its first byte shows when the slot was granted.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("wedged client: found %v, expected soffice's first message", err)
	}
	start := time.Now()
	_ = conn.SetReadDeadline(start.Add(2 * holdTimeout))
	_, err = io.Copy(io.Discard, conn)
	// Only half of hold_timeout: on a busy machine that byte comes late.
	if held := time.Since(start); errors.Is(err, os.ErrDeadlineExceeded) || held < holdTimeout/2 {
		t.Errorf("wedged client: cut after %s with error %v, expected hold_timeout, %s", held, err, holdTimeout)
	}
}

// processes returns the pids of soffice.bin in the session that soffice.sh has started.
func (o *office) processes(t *testing.T) (pids []int) {
	session, err := os.ReadFile(filepath.Join(o.dir, o.port, "pid"))
	if err != nil {
		return nil
	}
	// Its status is 1 if there are none.
	out, _ := exec.Command("ps", "-o", "pid=,stat=,comm=", "-s", strings.TrimSpace(string(session))).Output()
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1][0] == 'Z' || fields[2] != "soffice.bin" {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			t.Errorf("ps: %v in %q", err, line)
		}
		pids = append(pids, pid)
	}
	return pids
}
